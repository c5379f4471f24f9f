/**
 * What the scripts share: where things are, which Node to use, how to say things, how to start a child.
 *
 * Unusual: these files are plain JavaScript for Node ≥ 20 without a single dependency, because they run before
 * anything is installed. Everything they keep lies under `.srcode/` in the root of the checkout.
 */
import { spawn, spawnSync } from "node:child_process"
import { existsSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync, writeSync } from "node:fs"
import { tmpdir } from "node:os"
import { delimiter, dirname, join, resolve } from "node:path"
import { fileURLToPath } from "node:url"

/** The root of the checkout. */
export const root = resolve(dirname(fileURLToPath(import.meta.url)), "../..")
/** What set-up keeps between runs; safe to delete. */
export const state = join(root, ".srcode")

/** A failure that the user can act on: printed as one line, exit code 1. */
export class SetupError extends Error {}

/** Everything that is said goes to stderr, so that a command's stdout stays its own. */
export const say = (text) => {
  writeSync(2, `${text}\n`)
}

/** JSON of a file, or undefined when it is missing or is not JSON. */
export const readJson = (path) => {
  try {
    return JSON.parse(readFileSync(path, "utf8"))
  } catch {
    return undefined
  }
}

/** Writes by rename, so that a reader never sees half a file. */
export const writeJson = (path, value) => {
  mkdirSync(dirname(path), { recursive: true })
  const temporary = `${path}.${process.pid}.tmp`
  writeFileSync(temporary, `${JSON.stringify(value, null, 2)}\n`)
  renameSync(temporary, path)
}

/** `[major, minor]` of "v24.21.0" or "24.21.0". */
const version = (text) => text.replace(/^v/, "").split(".").map(Number)
const atLeast = (text, major, minor) => {
  const [a = 0, b = 0] = version(text)
  return a > major || (a === major && b >= minor)
}

/** The oldest Node that runs the TypeScript sources directly and that Effect's platform layer accepts. */
const oldest = [22, 19]

/**
 * The Node that runs the program: the one installed with the dependencies, else this one if it is new enough.
 * Returns `{ path, version }` or throws a SetupError that says what to do.
 */
export const programNode = () => {
  const local = join(root, "node_modules/.bin/node")
  if (existsSync(local)) {
    const answer = spawnSync(local, ["--version"], { encoding: "utf8", timeout: 20_000 })
    if (answer.status === 0 && atLeast(answer.stdout.trim(), 24, 0))
      return { path: local, version: answer.stdout.trim() }
  }
  if (atLeast(process.version, ...oldest)) return { path: process.execPath, version: process.version }
  throw new SetupError(
    `Node ${oldest.join(".")} or newer is needed and this is ${process.version}: npm has no Node for ${process.platform}-${process.arch}, so install Node 24 from https://nodejs.org and try again.`
  )
}

/** PATH with the workspace's own tools first. */
export const toolPath = () => `${join(root, "node_modules/.bin")}${delimiter}${process.env.PATH ?? ""}`

/**
 * Runs a command to its end. `show: true` lets its output through to stderr; otherwise the output comes back.
 * Returns `{ status, stdout, stderr }`; a command that cannot be started or that runs past `timeout` (ms) has status
 * null and the reason in stderr.
 */
export const execute = (command, args, options = {}) => {
  const show = options.show === true
  const answer = spawnSync(command, args, {
    cwd: options.cwd ?? root,
    env: options.env ?? process.env,
    encoding: "utf8",
    timeout: options.timeout ?? 600_000,
    killSignal: "SIGKILL",
    maxBuffer: 64 * 1024 * 1024,
    stdio: show ? ["ignore", 2, 2] : ["ignore", "pipe", "pipe"]
  })
  const stderr = answer.error === undefined ? (answer.stderr ?? "") : `${answer.error.message}\n${answer.stderr ?? ""}`
  return { status: answer.error === undefined ? answer.status : null, stdout: answer.stdout ?? "", stderr }
}

/** Runs npm itself: the copy that started us when there is one, so that its version and settings are the user's. */
export const npm = (args, options = {}) => {
  const own = process.env.npm_execpath
  if (own !== undefined && /npm-cli\.[cm]?js$/.test(own) && existsSync(own)) {
    return execute(process.execPath, [own, ...args], options)
  }
  return process.platform === "win32"
    ? execute("cmd.exe", ["/d", "/s", "/c", "npm", ...args], options)
    : execute("npm", args, options)
}

/** Whether a program of this name is on PATH. */
export const onPath = (name) =>
  (process.env.PATH ?? "").split(delimiter).some((folder) => folder !== "" && existsSync(join(folder, name)))

/** Makes a temporary folder, hands it over and removes it whatever happens. */
export const withTemporary = (use) => {
  const folder = mkdtempSync(join(tmpdir(), "srcode-"))
  try {
    return use(folder)
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

const alive = (pid) => {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return error.code === "EPERM"
  }
}

/**
 * Runs `work` while holding `.srcode/setup.lock`, so that two set-ups at once do not install over each other. A lock
 * whose owner is gone is taken over.
 */
export const withLock = (work) => {
  const lock = join(state, "setup.lock")
  mkdirSync(state, { recursive: true })
  let said = false
  for (;;) {
    try {
      writeFileSync(lock, String(process.pid), { flag: "wx" })
      break
    } catch (error) {
      if (error.code !== "EEXIST") throw new SetupError(`cannot write ${lock}: ${error.message}`)
    }
    const owner = Number(readFileSafe(lock))
    if (!Number.isInteger(owner) || owner <= 0 || !alive(owner)) {
      rmSync(lock, { force: true })
      continue
    }
    if (!said) say(`setup: waiting for another set-up (process ${owner}) to finish`)
    said = true
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 300)
  }
  try {
    return work()
  } finally {
    rmSync(lock, { force: true })
  }
}

const readFileSafe = (path) => {
  try {
    return readFileSync(path, "utf8")
  } catch {
    return ""
  }
}

const forwarded = ["SIGINT", "SIGTERM", "SIGHUP"]

/**
 * Becomes the given command: same terminal, same signals, same exit code. Where the system can replace a process
 * (Node ≥ 22.15 on Unix) nothing of us stays behind, so killing "the command" kills the program itself; otherwise the
 * command runs as a child and signals are handed on.
 */
export const become = (command, args, env) => {
  if (typeof process.execve === "function" && process.platform !== "win32") {
    process.removeAllListeners("warning")
    process.execve(command, [command, ...args], env)
  }
  const child = spawn(command, args, { stdio: "inherit", env })
  for (const signal of forwarded) process.on(signal, () => child.kill(signal))
  child.on("error", (error) => {
    say(`srcode: cannot start ${command}: ${error.message}`)
    process.exit(1)
  })
  child.on("exit", (code, signal) => {
    if (signal === null) process.exit(code ?? 1)
    for (const each of forwarded) process.removeAllListeners(each)
    process.kill(process.pid, signal)
  })
}
