/**
 * Files as this package needs them: whole texts and JSON in, atomic writes out, each failure a `ModelError` that names
 * the file. An atomic write goes to `<file>.tmp` beside the target, is flushed to the disk and then renamed, so that a
 * kill leaves either the old file or the new one; a left-over `.tmp` is overwritten by the next write. One writer per
 * file at a time is assumed.
 */
import { Effect, FileSystem, type PlatformError } from "effect"
import { ModelError } from "../ModelError.ts"

export const ioError =
  (operation: string, file: string) =>
  (error: PlatformError.PlatformError): ModelError => {
    const tag = error.reason._tag
    if (tag === "NotFound") {
      return ModelError.missing({ operation, file, message: `${operation}: ${file} does not exist; check the path` })
    }
    const known = knownCodes[systemCode(error)]
    if (known !== undefined) return ModelError.io({ operation, file, message: `${operation}: ${file}: ${known}` })
    const description = "description" in error.reason ? error.reason.description : undefined
    const detail = (description ?? error.reason.message).split("\n")[0]
    const hint =
      tag === "PermissionDenied"
        ? "check the permissions"
        : "check the path, the free space and that nothing else uses the file"
    return ModelError.io({ operation, file, message: `${operation}: ${file}: ${detail} (${tag}); ${hint}` })
  }

/** What the operating system called the failure, such as ENOSPC; empty when it did not say. */
const systemCode = (error: PlatformError.PlatformError): string => {
  const cause = error.reason.cause
  return isRecord(cause) && typeof cause.code === "string" ? cause.code : ""
}

const knownCodes: Readonly<Record<string, string>> = {
  ENOSPC: "no space left on the disk (ENOSPC); free space or choose another place",
  EDQUOT: "the disk quota is used up (EDQUOT); free space or choose another place",
  EFBIG: "the file grows beyond the size limit (EFBIG); raise ulimit -f or choose another place",
  EROFS: "the file system is read-only (EROFS); choose another place"
}

export const exists = Effect.fnUntraced(function* (operation: string, file: string) {
  const fs = yield* FileSystem.FileSystem
  return yield* fs.exists(file).pipe(Effect.mapError(ioError(operation, file)))
})

/**
 * Fails unless the path leads to a regular file, and gives its size in bytes. Asked before a file is opened: a pipe with
 * this name would be waited for without end.
 */
export const requireFile = Effect.fnUntraced(function* (operation: string, file: string) {
  const fs = yield* FileSystem.FileSystem
  const stat = yield* fs.stat(file).pipe(Effect.mapError(ioError(operation, file)))
  if (stat.type === "File") return Number(stat.size)
  const kind = stat.type === "Directory" ? "a folder" : "no regular file"
  return yield* ModelError.io({ operation, file, message: `${operation}: ${file} is ${kind}; put the file there` })
})

/** Texts are held in memory as a whole: the largest real one, a tokenizer with 256,000 tokens, has 35 MB. */
const textLimit = 256 * 1024 * 1024

export const readText = Effect.fnUntraced(function* (operation: string, file: string) {
  const fs = yield* FileSystem.FileSystem
  const size = yield* requireFile(operation, file)
  if (size > textLimit) {
    return yield* ModelError.malformed({
      operation,
      file,
      message: `${operation}: ${file} has ${size} bytes, a text here has at most ${textLimit}; it is not what its name says`
    })
  }
  const bytes = yield* fs.readFile(file).pipe(Effect.mapError(ioError(operation, file)))
  return yield* decodeUtf8(operation, file, bytes)
})

export const decodeUtf8 = (operation: string, file: string, bytes: Uint8Array): Effect.Effect<string, ModelError> =>
  Effect.try({
    try: () => new TextDecoder("utf-8", { fatal: true }).decode(bytes),
    catch: () => ModelError.malformed({ operation, file, message: `${operation}: ${file} is not valid UTF-8` })
  })

/** A JSON file whose top is an object. */
export const readJsonObject = Effect.fnUntraced(function* (operation: string, file: string) {
  const text = yield* readText(operation, file)
  return yield* parseJsonObject(operation, file, text)
})

export const parseJsonObject = Effect.fnUntraced(function* (operation: string, file: string, text: string) {
  if (nestsTooDeep(text)) {
    return yield* ModelError.malformed({
      operation,
      file,
      message: `${operation}: ${file} nests deeper than ${maxDepth}; it is not what its name says, fetch it again`
    })
  }
  const value: unknown = yield* Effect.try({
    try: () => JSON.parse(text),
    catch: (cause) =>
      ModelError.malformed({
        operation,
        file,
        message: `${operation}: ${file} is not valid JSON (${oneLine(cause)}); the file may be truncated, fetch it again`
      })
  })
  if (!isRecord(value)) {
    return yield* ModelError.malformed({ operation, file, message: `${operation}: ${file} must hold a JSON object` })
  }
  return value
})

/** Real files nest less than 10 deep; what walks a value recursively must not run out of stack on others. */
const maxDepth = 64

/** Whether brackets outside of strings open more than `maxDepth` deep. */
const nestsTooDeep = (text: string): boolean => {
  let depth = 0
  let quoted = false
  for (let at = 0; at < text.length; at++) {
    const char = text.charCodeAt(at)
    if (quoted) {
      if (char === 0x5c) at++
      else if (char === 0x22) quoted = false
    } else if (char === 0x22) quoted = true
    else if (char === 0x7b || char === 0x5b) {
      if (++depth > maxDepth) return true
    } else if (char === 0x7d || char === 0x5d) depth--
  }
  return false
}

export const isRecord = (value: unknown): value is { readonly [key: string]: unknown } =>
  typeof value === "object" && value !== null && !Array.isArray(value)

/** The first line of whatever was thrown, at most 160 characters. */
export const oneLine = (cause: unknown): string => {
  const text = cause instanceof Error ? cause.message : String(cause)
  const line = text.replace(/\s*\n\s*/g, "; ")
  return line.length > 160 ? `${line.slice(0, 157)}...` : line
}

const utf8 = new TextEncoder()

export const writeTextAtomic = (
  operation: string,
  file: string,
  text: string
): Effect.Effect<void, ModelError, FileSystem.FileSystem> => writeAtomic(operation, file, [utf8.encode(text)])

/** Writes the chunks in order, flushes, renames, and flushes the folder. On failure the temporary file is removed. */
export const writeAtomic = (
  operation: string,
  file: string,
  chunks: Iterable<Uint8Array>
): Effect.Effect<void, ModelError, FileSystem.FileSystem> =>
  writeAtomicWith(operation, file, (emit) => Effect.forEach(chunks, emit, { discard: true }))

/** Takes the next bytes of a file; they may be reused once the Effect is done. */
export type Emit = (piece: Uint8Array) => Effect.Effect<void, ModelError>

/** `writeAtomic` for bytes that are made while they are written. */
export const writeAtomicWith = Effect.fnUntraced(function* <R>(
  operation: string,
  file: string,
  produce: (emit: Emit) => Effect.Effect<void, ModelError, R>
) {
  const fs = yield* FileSystem.FileSystem
  const failed = Effect.mapError(ioError(operation, file))
  const temporary = `${file}.tmp`
  const write = Effect.gen(function* () {
    const handle = yield* fs.open(temporary, { flag: "w" }).pipe(failed)
    yield* produce(
      Effect.fnUntraced(function* (piece) {
        for (let from = 0; from < piece.length; from += writeLimit) {
          yield* handle.writeAll(piece.subarray(from, Math.min(piece.length, from + writeLimit))).pipe(failed)
        }
      })
    )
    yield* handle.sync.pipe(failed)
  })
  yield* Effect.scoped(write).pipe(
    Effect.andThen(failed(fs.rename(temporary, file))),
    Effect.onError(() => Effect.ignore(fs.remove(temporary, { force: true }))),
    Effect.andThen(syncDirectory(directoryOf(file)))
  )
})

export const directoryOf = (file: string): string => {
  const cut = file.lastIndexOf("/")
  return cut < 0 ? "." : cut === 0 ? "/" : file.slice(0, cut)
}

/** The operating system takes at most 2 GiB per call. */
const writeLimit = 64 * 1024 * 1024

/** A rename is only durable once the folder is; systems that cannot open a folder skip this. */
export const syncDirectory = (directory: string) =>
  Effect.scoped(
    Effect.gen(function* () {
      const fs = yield* FileSystem.FileSystem
      const handle = yield* fs.open(directory, { flag: "r" })
      yield* handle.sync
    })
  ).pipe(Effect.ignore)

/** Makes a folder and those above it. Level by level: Node's recursive form never ends where the system says ENOENT (/proc). */
export const makeDirectory = Effect.fnUntraced(function* (
  operation: string,
  directory: string
): Effect.fn.Return<void, ModelError, FileSystem.FileSystem> {
  const fs = yield* FileSystem.FileSystem
  const isDirectory = fs.stat(directory).pipe(
    Effect.map((info) => info.type === "Directory"),
    Effect.orElseSucceed(() => false)
  )
  if (yield* isDirectory) return
  const parent = directoryOf(directory.replace(/\/+$/, ""))
  if (parent !== directory) yield* makeDirectory(operation, parent)
  yield* fs.makeDirectory(directory).pipe(
    // another process may have been faster
    Effect.catchIf(
      (error) => error.reason._tag === "AlreadyExists",
      (error) => Effect.flatMap(isDirectory, (there) => (there ? Effect.void : Effect.fail(error)))
    ),
    Effect.mapError(ioError(operation, directory))
  )
})
