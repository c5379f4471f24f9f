/**
 * Starts a program of this project, after setting up whatever is still missing.
 *
 *     node scripts/run.mjs <srcode arguments>
 *     node scripts/run.mjs demo [more arguments]            same as: run --preset demo --out runs/demo
 *     node scripts/run.mjs --program bench/src/main.ts …    another program of the repository
 *
 * The program takes this process's place: its output, signals and exit code are its own. Says nothing when there is
 * nothing to set up.
 */
import { existsSync } from "node:fs"
import { resolve } from "node:path"
import { become, root, SetupError, toolPath } from "./lib/common.mjs"
import { plan, requestedDevice } from "./lib/plan.mjs"
import { prepare, runScript } from "./setup.mjs"

runScript("srcode", () => {
  const { args, program } = plan(process.argv.slice(2))
  const path = resolve(root, program)
  if (!existsSync(path)) throw new SetupError(`there is no program ${program}.`)
  const { environment, node } = prepare({ device: requestedDevice(args) })
  become(node.path, [path, ...args], { ...environment, PATH: toolPath() })
  return process.exitCode
})
