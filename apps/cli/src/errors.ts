/**
 * From causes to one line on stderr and an exit code:
 *   0  success, and help that was asked for
 *   1  the caller can mend it: a flag, a file, a missing program, a device that is too small
 *   2  a fault of ours: an unexpected exception, a kernel that does not compile
 *   130  interrupted
 *
 * Unusual: never a stack trace, unless `--log-level debug` (or all, trace) or SRCODE_DEBUG asks for it; no error
 * object reaches Node's own reporter.
 */
import { Cause, Config, Console, Effect, Exit, Option, PlatformError, Predicate, Stdio } from "effect"
import { CliError } from "effect/cli"

/** One line, without control characters, of bounded length. */
export const oneLine = (text: string, limit = 1000): string => {
  const line = text
    .replace(/\s*\n\s*/g, " ")
    // biome-ignore lint/suspicious/noControlCharactersInRegex: a file's name or content must not steer the terminal
    .replace(/[\u0000-\u001f\u007f\u009b]+/g, " ")
    .replace(/ {2,}/g, " ")
    .trim()
  return line.length > limit ? `${line.slice(0, limit - 1)}…` : line
}

export interface Report {
  readonly code: 0 | 1 | 2 | 130
  /** What to print on stderr; empty prints nothing. */
  readonly lines: ReadonlyArray<string>
}

/** Reasons of typed errors that a caller cannot mend. Any other typed error is the caller's to mend. */
const ourFaults = new Set(["ShaderInvalid", "InvalidDispatch", "Validation", "InvalidJob", "Incomplete"])

const reasonOf = (error: object): string => {
  if (!("reason" in error)) return ""
  if (Predicate.isString(error.reason)) return error.reason
  return Predicate.hasProperty(error.reason, "_tag") ? String(error.reason._tag) : ""
}

const fault = (text: string): Report => ({
  code: 2,
  lines: [
    `srcode: internal error: ${oneLine(text)}`,
    "srcode: this is a fault of srcode's: please report it with the output of the same command and --log-level debug"
  ]
})

const usage = (error: CliError.ShowHelp): Report => {
  const help = `see "${error.commandPath.join(" ")} --help"`
  if (error.errors.length === 0) return { code: 1, lines: [`srcode: a command is missing; ${help}`] }
  return { code: 1, lines: error.errors.map((each) => `srcode: ${oneLine(describeUsage(each))}; ${help}`) }
}

const describeUsage = (error: CliError.NonShowHelpErrors): string => {
  const suggest = (names: ReadonlyArray<string>) => (names.length === 0 ? "" : `, did you mean ${names.join(" or ")}?`)
  switch (error._tag) {
    case "UnrecognizedOption":
      return `unknown flag ${error.option}${suggest(error.suggestions)}`
    case "UnknownSubcommand":
      return `unknown command "${error.subcommand}"${suggest(error.suggestions.map((name) => `"${name}"`))}`
    case "MissingOption":
      return `--${error.option} is missing`
    case "InvalidValue": {
      const times = /^(\d+) occurrences$/.exec(error.value)?.[1]
      if (times !== undefined) return `--${error.option} is given ${times} times`
      // of a schema that refused the value only what it expected
      return error.message.replace(/Expected: Schema validation failed: (?:Expected )?/, "Expected ")
    }
    default:
      return error.message
  }
}

/** A file that the system refused, where no message of our own was made of it. */
const describePlatform = ({ reason }: PlatformError.PlatformError): string => {
  const place =
    "pathOrDescriptor" in reason && reason.pathOrDescriptor !== undefined ? `${reason.pathOrDescriptor}: ` : ""
  const cause = reason.cause instanceof Error ? reason.cause.message : reason.message
  return `${place}${cause}; check the path, the permissions and the free space`
}

/** What to print for one error out of a cause. */
export const describeError = (error: unknown): Report => {
  if (CliError.isCliError(error)) {
    return error._tag === "ShowHelp" ? usage(error) : { code: 1, lines: [`srcode: ${oneLine(error.message)}`] }
  }
  // A typed error carries its tag; anything else in the error channel was not meant to get there.
  if (!Predicate.hasProperty(error, "_tag")) return fault(error instanceof Error ? error.message : String(error))
  const message =
    error instanceof PlatformError.PlatformError
      ? describePlatform(error)
      : error instanceof Error && error.message !== ""
        ? error.message
        : String(error._tag)
  if (ourFaults.has(reasonOf(error))) return fault(message)
  const hint = "hint" in error && Predicate.isString(error.hint) ? `; ${error.hint}` : ""
  return { code: 1, lines: [`srcode: ${oneLine(message + hint)}`] }
}

const describeDefect = (defect: unknown): Report =>
  fault(defect instanceof Error ? `${defect.name}: ${defect.message}` : String(defect))

/** The report of a whole cause: a fault of ours outweighs a failure, a failure outweighs an interruption. */
export const describeCause = (cause: Cause.Cause<unknown>): Report => {
  if (Cause.hasInterruptsOnly(cause)) return { code: 130, lines: ["srcode: interrupted"] }
  const reports = cause.reasons.flatMap((reason) => {
    if (Cause.isDieReason(reason)) return [describeDefect(reason.defect)]
    return Cause.isFailReason(reason) ? [describeError(reason.error)] : []
  })
  return reports.find((report) => report.code === 2) ?? reports[0] ?? fault("an empty cause")
}

const wantsDetails = Effect.gen(function* () {
  const args = yield* (yield* Stdio.Stdio).args
  const flag = args.findLast((arg, index) => arg.startsWith("--log-level=") || args[index - 1] === "--log-level")
  const level = flag?.replace("--log-level=", "") ?? ""
  const variable = yield* Config.option(Config.String("SRCODE_DEBUG"))
  const asked = Option.isSome(variable) && !["", "0", "false"].includes(variable.value)
  return ["debug", "trace", "all"].includes(level) || asked
})

/** Runs a program to its exit code, printing what went wrong. Never fails; an interrupt ends the program, not the report. */
export const runToExitCode = <E, R>(program: Effect.Effect<void, E, R>) =>
  Effect.uninterruptibleMask((restore) =>
    Effect.gen(function* () {
      const exit = yield* Effect.exit(restore(program))
      if (Exit.isSuccess(exit)) return 0
      const report = describeCause(exit.cause)
      for (const line of report.lines) yield* Console.error(line)
      const details = yield* Effect.orElseSucceed(wantsDetails, () => false)
      if (details && report.code !== 130) yield* Console.error(Cause.pretty(exit.cause))
      return report.code
    })
  )
