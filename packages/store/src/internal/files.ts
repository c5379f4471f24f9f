/**
 * Synchronous file primitives. Synchronous on purpose: a fiber cannot be interrupted between the write, the fsync and
 * the rename, so a file is either the old one or the new one. Everything here throws Node's exceptions; the public
 * modules turn them into `StoreError`s.
 */
import * as fs from "node:fs"
import * as nodePath from "node:path"

const temporaryPrefix = ".tmp-"
let counter = 0

/** A fresh name beside `file`, on the same file system so that the rename is atomic. */
export const temporaryName = (file: string): string =>
  nodePath.join(nodePath.dirname(file), `${temporaryPrefix}${nodePath.basename(file)}-${process.pid}-${counter++}`)

/** Makes a rename or a creation in `directory` durable. Some file systems do not allow it; the rename is atomic still. */
export const syncDirectory = (directory: string): void => {
  let fd: number | undefined
  try {
    fd = fs.openSync(directory, "r")
    fs.fsyncSync(fd)
  } catch {
    // Windows and some network file systems refuse to open or sync a directory.
  } finally {
    if (fd !== undefined) fs.closeSync(fd)
  }
}

/** Writes all of `data`, however often the system takes only a part. */
export const writeAll = (fd: number, data: Uint8Array): void => {
  for (let offset = 0; offset < data.length; ) offset += fs.writeSync(fd, data, offset)
}

/**
 * Makes `directory` and what is missing above it. Node's own recursive form loops for ever where the parent exists and
 * the child can never be made (under /proc, for one), so this one climbs itself and fails with the first real cause.
 */
export const makeDirectory = (directory: string): void => {
  if (fs.existsSync(directory) && fs.statSync(directory).isDirectory()) return
  const parent = nodePath.dirname(directory)
  if (parent !== directory) makeDirectory(parent)
  try {
    fs.mkdirSync(directory)
  } catch (cause) {
    // Another process may have made it meanwhile.
    if (!fs.existsSync(directory) || !fs.statSync(directory).isDirectory()) throw cause
  }
}

/** Temp file, fsync, rename, fsync of the directory. Parent directories are made. */
export const writeAtomic = (file: string, data: Uint8Array): void => {
  makeDirectory(nodePath.dirname(file))
  const temporary = temporaryName(file)
  try {
    const fd = fs.openSync(temporary, "wx")
    try {
      writeAll(fd, data)
      fs.fsyncSync(fd)
    } finally {
      fs.closeSync(fd)
    }
    fs.renameSync(temporary, file)
  } catch (cause) {
    fs.rmSync(temporary, { force: true })
    throw cause
  }
  syncDirectory(nodePath.dirname(file))
}

/** Throws what `writeAtomic` would, without leaving anything but the parent directories. */
export const probeWrite = (file: string): void => {
  makeDirectory(nodePath.dirname(file))
  if (fs.statSync(file, { throwIfNoEntry: false })?.isDirectory())
    throw Object.assign(new Error(`${file} is a directory`), { code: "EISDIR" })
  const temporary = temporaryName(file)
  fs.closeSync(fs.openSync(temporary, "wx"))
  fs.rmSync(temporary, { force: true })
}

/** Removes what a killed process left half-written. Only safe while the directory is locked by the caller. */
export const sweepTemporaries = (directory: string): void => {
  for (const entry of fs.readdirSync(directory, { withFileTypes: true })) {
    const path = nodePath.join(directory, entry.name)
    if (entry.isDirectory()) sweepTemporaries(path)
    else if (entry.name.startsWith(temporaryPrefix)) fs.rmSync(path, { force: true })
  }
}

/**
 * Length of `file` up to and including its last line end: what a kill in the middle of an append leaves whole. Reads
 * backwards in blocks, so a long file costs nothing.
 */
export const wholeLength = (file: string): number => {
  const fd = fs.openSync(file, "r")
  try {
    const block = new Uint8Array(64 * 1024)
    for (let end = fs.fstatSync(fd).size; end > 0; ) {
      const start = Math.max(0, end - block.length)
      const read = fs.readSync(fd, block, 0, end - start, start)
      const at = block.subarray(0, read).lastIndexOf(0x0a)
      if (at >= 0) return start + at + 1
      end = start
    }
    return 0
  } finally {
    fs.closeSync(fd)
  }
}

/** Cuts a torn last line off; nothing happens when the file is whole or not there. */
export const cutTornLine = (file: string): void => {
  if (!fs.existsSync(file)) return
  const whole = wholeLength(file)
  if (whole === fs.statSync(file).size) return
  const fd = fs.openSync(file, "r+")
  try {
    fs.ftruncateSync(fd, whole)
    fs.fsyncSync(fd)
  } finally {
    fs.closeSync(fd)
  }
}

/** All regular files at or under `path`, sorted, relative to `root` with forward slashes. */
export const filesUnder = (root: string, path: string): ReadonlyArray<string> => {
  const absolute = nodePath.join(root, path)
  if (!fs.statSync(absolute).isDirectory()) return [path.split(nodePath.sep).join("/")]
  return fs
    .readdirSync(absolute)
    .sort()
    .flatMap((name) => filesUnder(root, nodePath.join(path, name)))
}
