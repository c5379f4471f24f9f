/**
 * One child process with pipes, from spawn to the last byte. Plain Node for low overhead: the loop of reinforcement
 * learning starts hundreds of these per evaluation.
 *
 * Contract: settles exactly once, after every pipe is closed, which (inside a PID namespace) proves that every
 * descendant is dead. `kill` may be called at any time. Uses the real clock even under a test clock: the process is real.
 */
import { type ChildProcess, type StdioOptions, spawn } from "node:child_process"
import { openSync, readdirSync, readFileSync } from "node:fs"
import type { Readable, Writable } from "node:stream"

export interface RawResult {
  readonly exitCode: number | null
  readonly signal: string | null
  readonly timedOut: boolean
  readonly killed: boolean
  readonly stdout: string
  readonly stderr: string
  readonly truncated: boolean
  readonly status: string
  readonly wallMs: number
}

export interface RawOptions {
  readonly command: readonly [string, ...ReadonlyArray<string>]
  readonly stdin: string | Uint8Array | undefined
  /** Written to descriptors 4, 5, … and closed; descriptor 3 is read as text into `status`. */
  readonly inputs: ReadonlyArray<string | Uint8Array>
  readonly wallMs: number
  readonly outputBytes: number
}

/** Past the cap, output is read and dropped; past this much in total the writer is killed rather than humoured. */
const floodBytes = 64 * 1024 * 1024
/** After a kill, how long to wait for the pipes before giving up on them (a process stuck in the kernel). */
const graceMs = 5_000

/** Starts the process; throws only if Node refuses the arguments outright. */
export const start = (
  options: RawOptions,
  done: (result: RawResult) => void,
  failed: (cause: Error) => void
): { readonly kill: () => void } => {
  const startedAt = performance.now()
  const [file, ...args] = options.command
  const child: ChildProcess = spawn(file, args, {
    env: {},
    cwd: "/",
    detached: true,
    stdio: descriptors(4 + options.inputs.length)
  })
  let settled = false
  let timedOut = false
  let killed = false
  let grace: NodeJS.Timeout | undefined

  const kill = () => {
    if (settled || killed) return
    killed = true
    if (child.pid !== undefined) {
      try {
        process.kill(-child.pid, "SIGKILL")
      } catch {
        child.kill("SIGKILL")
      }
    }
    grace = setTimeout(() => {
      for (const stream of child.stdio) stream?.destroy()
      settle(null, "SIGKILL")
    }, graceMs)
  }
  const wall = setTimeout(() => {
    timedOut = true
    kill()
  }, options.wallMs)

  const stdout = capture(child.stdout, options.outputBytes, kill)
  const stderr = capture(child.stderr, options.outputBytes, kill)
  const status = capture(child.stdio[3] as Readable | null, 4096, kill)
  feed(child.stdin, options.stdin)
  options.inputs.forEach((input, index) => {
    feed(child.stdio[4 + index] as Writable | null, input)
  })

  const settle = (exitCode: number | null, signal: string | null) => {
    if (settled) return
    settled = true
    clearTimeout(wall)
    clearTimeout(grace)
    done({
      exitCode,
      signal,
      timedOut,
      killed,
      stdout: stdout.text(),
      stderr: stderr.text(),
      truncated: stdout.truncated() || stderr.truncated(),
      status: status.text(),
      wallMs: performance.now() - startedAt
    })
  }
  child.on("close", settle)
  child.on("error", (cause) => {
    // Without a pid the process never existed and no "close" follows; otherwise "close" tells the end.
    if (child.pid !== undefined || settled) return
    settled = true
    clearTimeout(wall)
    failed(cause)
  })
  return { kill }
}

const capture = (stream: Readable | null, cap: number, flood: () => void) => {
  const chunks: Array<Buffer> = []
  let kept = 0
  let seen = 0
  stream?.on("data", (chunk: Buffer) => {
    seen += chunk.length
    if (kept < cap) {
      const part = chunk.subarray(0, cap - kept)
      chunks.push(part)
      kept += part.length
    }
    if (seen > floodBytes) flood()
  })
  stream?.on("error", ignore)
  return { text: () => Buffer.concat(chunks).toString("utf8"), truncated: () => seen > cap }
}

/** A reader that exits early closes its end (EPIPE): that is the job's business, not an error. */
const feed = (stream: Writable | null, input: string | Uint8Array | undefined) => {
  stream?.on("error", ignore)
  stream?.end(input)
}

const ignore = () => {}

/**
 * Pipes for the first `own` descriptors, and /dev/null over every other descriptor which a child would inherit: a shell,
 * a test runner or a GPU driver may have left some open without close-on-exec, and one such is a hole in the sandbox.
 */
const descriptors = (own: number): StdioOptions => {
  const leaked = inheritable().filter((fd) => fd >= own)
  const length = Math.max(own, ...leaked.map((fd) => fd + 1))
  return Array.from({ length }, (_, fd) => (fd < own ? "pipe" : leaked.includes(fd) ? devNull() : "ignore"))
}

const closeOnExec = 0o2000000

const inheritable = (): ReadonlyArray<number> =>
  readdirSync("/proc/self/fdinfo")
    .map(Number)
    .filter((fd) => {
      try {
        const flags = /^flags:\s*([0-7]+)/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, "utf8"))?.[1]
        return fd > 2 && (Number.parseInt(flags ?? "0", 8) & closeOnExec) === 0
      } catch {
        return false // Closed since it was listed.
      }
    })

let devNullFd: number | undefined
const devNull = (): number => (devNullFd ??= openSync("/dev/null", "r+"))
