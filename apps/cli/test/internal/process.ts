/** Runs the real command line as a process of its own, in a folder of its own. */
import { spawn } from "node:child_process"
import * as fs from "node:fs"
import * as os from "node:os"
import * as nodePath from "node:path"
import { afterAll, beforeAll } from "@effect/vitest"

export const main = nodePath.resolve(import.meta.dirname, "../../src/main.ts")

export interface Ended {
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
  readonly stdout: string
  readonly stderr: string
}

export interface Options {
  readonly cwd?: string
  readonly env?: Readonly<Record<string, string | undefined>>
  /** Called once the process runs; may send signals or close its streams. */
  readonly during?: (child: ReturnType<typeof spawn>) => void
  readonly nodeArgs?: ReadonlyArray<string>
  /** What the process reads from standard input; nothing unless given. null leaves it open for `during` to write to. */
  readonly input?: string | null
}

/** Ends with what the process ended with; a process that takes longer than 100 s is killed and has signal SIGKILL. */
export const run = (args: ReadonlyArray<string>, options: Options = {}): Promise<Ended> =>
  new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [...(options.nodeArgs ?? []), main, ...args], {
      cwd: options.cwd ?? os.tmpdir(),
      env: { ...process.env, SRCODE_DEBUG: "", SRCODE_DEVICE: "null", NO_COLOR: "1", ...options.env },
      stdio: [options.input === undefined ? "ignore" : "pipe", "pipe", "pipe"]
    })
    child.stdin?.on("error", () => {})
    if (typeof options.input === "string") child.stdin?.end(options.input)
    const text = { stdout: "", stderr: "" }
    child.stdout?.on("data", (data) => {
      text.stdout += String(data)
    })
    child.stderr?.on("data", (data) => {
      text.stderr += String(data)
    })
    const timer = setTimeout(() => child.kill("SIGKILL"), 100_000)
    child.on("error", reject)
    child.on("close", (code, signal) => {
      clearTimeout(timer)
      resolve({ code, signal, ...text })
    })
    options.during?.(child)
  })

export const tinyCoder = nodePath.resolve(import.meta.dirname, "../../../../packages/model/assets/tiny-coder")

/** A folder for all tests of a file, filled before the first and removed after the last; gives the path of a name in it. */
export const sharedFolder = (fill: (at: (name: string) => string) => Promise<unknown>): ((name: string) => string) => {
  let folder = ""
  const at = (name: string) => nodePath.join(folder, name)
  beforeAll(async () => {
    folder = fs.mkdtempSync(nodePath.join(fs.realpathSync(os.tmpdir()), "srcode-cli-shared-"))
    await fill(at)
  })
  afterAll(() => fs.rmSync(folder, { recursive: true, force: true }))
  return at
}

/** A fresh folder, removed after use. */
export const inFolder = async <A>(use: (folder: string) => Promise<A>): Promise<A> => {
  const folder = fs.mkdtempSync(nodePath.join(os.tmpdir(), "srcode-cli-"))
  try {
    return await use(folder)
  } finally {
    fs.rmSync(folder, { recursive: true, force: true })
  }
}
