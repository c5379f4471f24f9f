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
import { prepare, runScript } from "./setup.mjs"

/** `{ program, args }` from the command line. */
export const plan = (argv) => {
  const [first, second, ...others] = argv
  if (first === "--program") {
    if (second === undefined) throw new SetupError("--program needs the path of a program.")
    return { program: second, args: others }
  }
  if (first !== "demo") return { program: "apps/cli/src/main.ts", args: argv }
  const rest = argv.slice(1)
  const given = (flag) => rest.some((arg) => arg === flag || arg.startsWith(`${flag}=`))
  const defaults = [
    ...(given("--preset") ? [] : ["--preset", "demo"]),
    ...(given("--out") ? [] : ["--out", "runs/demo"])
  ]
  return { program: "apps/cli/src/main.ts", args: ["run", ...defaults, ...rest] }
}

/** The device a command asks for: it decides which driver must be in the environment before the program starts. */
export const requestedDevice = (args, environment = process.env) => {
  const at = args.lastIndexOf("--device")
  const joined = args.findLast((arg) => arg.startsWith("--device="))
  return (
    (at >= 0 ? args[at + 1] : undefined) ?? joined?.slice("--device=".length) ?? environment.SRCODE_DEVICE ?? "auto"
  )
}

runScript("srcode", () => {
  const { args, program } = plan(process.argv.slice(2))
  const path = resolve(root, program)
  if (!existsSync(path)) throw new SetupError(`there is no program ${program}.`)
  const { environment, node } = prepare({ device: requestedDevice(args) })
  become(node.path, [path, ...args], { ...environment, PATH: toolPath() })
  return process.exitCode
})
