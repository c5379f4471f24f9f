/** What a command line of run.mjs means. */
import { SetupError } from "./common.mjs"

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
