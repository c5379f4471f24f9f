/**
 * Everything a fresh checkout needs: dependencies, a Node that runs TypeScript, a Vulkan driver, analyzers and a
 * sandbox. Says what it does before it does it, does nothing twice, and needs no network when all is there.
 *
 *     node scripts/setup.mjs [--check] [--driver auto|hardware|lavapipe|swiftshader]
 *
 * `--check` changes nothing and tells what is missing (exit code 1 when something essential is). `--driver` chooses
 * the driver for every later command; `auto` goes back to the usual order.
 */
import { realpathSync } from "node:fs"
import { fileURLToPath } from "node:url"
import { ensureAnalyzers, missingAnalyzers } from "./lib/analyzers.mjs"
import { programNode, SetupError, say, withLock } from "./lib/common.mjs"
import { choices, describeDriver, ensureDriver, overlay, requireDriver, savedDriver } from "./lib/driver.mjs"
import { installModules, staleReason } from "./lib/modules.mjs"

/**
 * What run and test call: sets up what is missing, silently when nothing is. `device` is the driver a command asked
 * for (`null` needs none). Returns `{ node, environment }` to start the program with. A missing driver is told and
 * does not stop: some commands need none.
 */
export const prepare = ({ device = "auto" } = {}) => {
  const reason = staleReason()
  if (reason !== undefined) {
    withLock(() => {
      const again = staleReason()
      if (again !== undefined) installModules(again)
    })
  }
  const node = programNode()
  if (device === "null") return { node, environment: { ...process.env }, driver: undefined }
  const choice = choices.includes(device) ? device : "auto"
  const saved = savedDriver(choice)
  const driver = saved ?? withLock(() => ensureDriver({ choice, allowInstall: true, retry: false }))
  if (saved === undefined) {
    say(`setup: ${describeDriver(driver)}`)
    withLock(() => ensureAnalyzers({ retry: false }))
  }
  return { node, environment: overlay(driver), driver }
}

const check = (choice) => {
  const stale = staleReason()
  say(`dependencies: ${stale ?? "installed"}`)
  const node = stale === undefined ? programNode() : undefined
  say(`node: ${node === undefined ? "known once the dependencies are installed" : `${node.version} (${node.path})`}`)
  const driver = stale === undefined ? ensureDriver({ choice, allowInstall: false, retry: true }) : undefined
  say(`driver: ${driver === undefined ? "known once the dependencies are installed" : describeDriver(driver)}`)
  const missing = missingAnalyzers().map((each) => each.name)
  say(`analyzers and sandbox: ${missing.length === 0 ? "all here" : `not here: ${missing.join(", ")}`}`)
  return stale === undefined && driver?.driver !== "none" ? 0 : 1
}

const setup = (choice) =>
  withLock(() => {
    const stale = staleReason()
    if (stale === undefined) say("setup: dependencies are installed")
    else installModules(stale)
    const node = programNode()
    say(`setup: Node ${node.version}`)
    const driver = ensureDriver({
      choice: choice ?? "auto",
      allowInstall: true,
      retry: true,
      keep: choice !== undefined
    })
    if (driver.driver !== "none") say(`setup: Vulkan driver: ${describeDriver(driver)}`)
    if (ensureAnalyzers({ retry: true }).length === 0) say("setup: analyzers and sandbox are here")
    requireDriver(driver)
    say("setup: done")
    return 0
  })

const main = (args) => {
  let checkOnly = false
  let choice
  for (let index = 0; index < args.length; index++) {
    const arg = args[index]
    if (arg === "--check") checkOnly = true
    else if (arg === "--driver" && choices.includes(args[index + 1])) choice = args[++index]
    else
      throw new SetupError(
        `unknown option "${args.slice(index).join(" ")}": use --check or --driver ${choices.join("|")}.`
      )
  }
  return checkOnly ? check(choice ?? "auto") : setup(choice)
}

/** Runs a script's main function and turns a SetupError into one line. */
export const runScript = (name, body) => {
  try {
    process.exitCode = body()
  } catch (error) {
    if (!(error instanceof SetupError)) throw error
    say(`${name}: ${error.message}`)
    process.exitCode = 1
  }
}

if (process.argv[1] !== undefined && realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) {
  runScript("setup", () => main(process.argv.slice(2)))
}
