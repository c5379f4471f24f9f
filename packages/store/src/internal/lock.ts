/**
 * One process per run directory. The lock is a small JSON file made with O_EXCL; a lock whose process is gone is taken
 * over. A process is told from a later one with the same number by its start time, where the system shows it (Linux).
 * Synchronous: throws Node's exceptions, returns the holder when the directory is taken.
 */
import * as fs from "node:fs"
import * as os from "node:os"

interface Holder {
  readonly pid: number
  readonly host: string
  /** Clock ticks since boot (field 22 of /proc/PID/stat); null where there is no /proc. */
  readonly started: string | null
}

/** Locks this process holds: a lock of our own number that is not in here is an earlier process's. */
const held = new Set<string>()

const startTime = (pid: number): string | null => {
  try {
    const stat = fs.readFileSync(`/proc/${pid}/stat`, "utf8")
    // The command name is in parentheses and may hold spaces; the 22nd field is the 20th after it.
    return stat.slice(stat.lastIndexOf(")") + 2).split(" ")[19] ?? null
  } catch {
    return null
  }
}

const read = (file: string): Holder | undefined => {
  try {
    const value: unknown = JSON.parse(fs.readFileSync(file, "utf8"))
    if (typeof value !== "object" || value === null) return undefined
    const { pid, host, started } = value as Record<string, unknown>
    if (typeof pid !== "number" || typeof host !== "string") return undefined
    return { pid, host, started: typeof started === "string" ? started : null }
  } catch {
    return undefined
  }
}

const isAlive = (file: string, holder: Holder): boolean => {
  if (holder.host !== os.hostname()) return true
  if (holder.pid === process.pid) return held.has(file)
  try {
    process.kill(holder.pid, 0)
  } catch (cause) {
    // EPERM: it lives and belongs to another user.
    if ((cause as NodeJS.ErrnoException).code !== "EPERM") return false
  }
  const started = startTime(holder.pid)
  return holder.started === null || started === null || started === holder.started
}

const createExclusive = (file: string, holder: Holder): boolean => {
  try {
    fs.writeFileSync(file, `${JSON.stringify(holder)}\n`, { flag: "wx" })
    return true
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === "EEXIST") return false
    throw cause
  }
}

const create = (file: string): boolean => {
  const holder: Holder = { pid: process.pid, host: os.hostname(), started: startTime(process.pid) }
  // Written beside and linked into place, so that nobody reads a lock that is created and still empty.
  const own = `${file}.${process.pid}.${held.size}`
  fs.writeFileSync(own, `${JSON.stringify(holder)}\n`)
  try {
    fs.linkSync(own, file)
    return true
  } catch (cause) {
    const code = (cause as NodeJS.ErrnoException).code ?? ""
    if (code === "EEXIST") return false
    if (!["EPERM", "ENOTSUP", "EOPNOTSUPP", "ENOSYS", "EMLINK"].includes(code)) throw cause
    // No hard links on this file system: exclusive creation is the next best thing.
    return createExclusive(file, holder)
  } finally {
    fs.rmSync(own, { force: true })
  }
}

/** Takes the lock (null), or returns who has it. */
export const acquire = (file: string): Holder | null => {
  for (let attempt = 0; attempt < 100; attempt++) {
    if (create(file)) {
      held.add(file)
      return null
    }
    const holder = read(file)
    if (holder !== undefined && isAlive(file, holder)) return holder
    // Stale. Renaming is atomic, so only one of several takers gets it; the loser of the race may have moved a fresh
    // lock instead, which it recognises by its content and puts back.
    const aside = `${file}.stale.${process.pid}`
    try {
      fs.renameSync(file, aside)
    } catch {
      continue
    }
    const moved = read(aside)
    if (moved !== undefined && isAlive(file, moved)) {
      try {
        fs.linkSync(aside, file)
      } catch {
        // Someone made a new lock meanwhile: it stands.
      }
    }
    fs.rmSync(aside, { force: true })
  }
  return read(file) ?? { pid: 0, host: os.hostname(), started: null }
}

/** Gives the lock back, if it is still this process's. */
export const release = (file: string): void => {
  held.delete(file)
  const holder = read(file)
  if (holder?.pid === process.pid && holder.host === os.hostname()) fs.rmSync(file, { force: true })
}
