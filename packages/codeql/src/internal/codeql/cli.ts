/**
 * The CodeQL command line as used here: argument lists, exit codes, and one way to run it.
 *
 * Not sandboxed: CodeQL reads snippets but runs nothing of them (`--build-mode=none`), and it needs gigabytes of its own
 * installation. It gets a nearly empty environment, own file names only, and a wall clock which kills its process group.
 */
import { Effect, Stream } from "effect"
import { ChildProcess, ChildProcessSpawner } from "effect/process"
import { AnalyzerError } from "../../AnalyzerError.ts"

/** The first release whose C/C++ extraction without a build is generally available. */
export const requiredVersion = "2.23.3"

export type CodeQlLanguage = "cpp" | "python"
export type CodeQlProfile = "default" | "extended" | "all-security"

export interface Resources {
  /** `0` = all cores. */
  readonly threads: number
  /** MB for the evaluator; undefined leaves CodeQL's own choice. */
  readonly ramMb: number | undefined
}

const databaseLanguage = { cpp: "c-cpp", python: "python" } as const

const resources = ({ threads, ramMb }: Resources): ReadonlyArray<string> => [
  `--threads=${threads}`,
  ...(ramMb === undefined ? [] : [`--ram=${ramMb}`])
]

export const createArguments = (
  paths: { readonly database: string; readonly source: string; readonly logs: string },
  language: CodeQlLanguage,
  limits: Resources
): ReadonlyArray<string> => [
  "database",
  "create",
  paths.database,
  `--language=${databaseLanguage[language]}`,
  "--build-mode=none",
  `--source-root=${paths.source}`,
  "--overwrite",
  `--logdir=${paths.logs}`,
  ...resources(limits)
]

export const analyzeArguments = (
  paths: { readonly database: string; readonly output: string; readonly logs: string },
  suite: string,
  limits: Resources
): ReadonlyArray<string> => [
  "database",
  "analyze",
  paths.database,
  suite,
  "--format=sarifv2.1.0",
  `--output=${paths.output}`,
  "--no-download",
  "--max-paths=1",
  "--no-print-diagnostics-summary",
  "--no-print-metrics-summary",
  "--rerun",
  `--logdir=${paths.logs}`,
  ...resources(limits)
]

const suiteNames = { default: "code-scanning", extended: "security-extended" } as const

/** The pack's own suite by name, or undefined for the profile which needs a suite file of its own. */
export const packagedSuite = (language: CodeQlLanguage, profile: CodeQlProfile): string | undefined =>
  profile === "all-security"
    ? undefined
    : `codeql/${language}-queries:codeql-suites/${language}-${suiteNames[profile]}.qls`

/** Every alert query tagged security, of any precision, and the diagnostics that prove coverage. */
export const allSecuritySuite = (language: CodeQlLanguage): string =>
  `- queries: .
  from: codeql/${language}-queries
- include:
    kind:
      - problem
      - path-problem
    tags contain: security
- include:
    kind: diagnostic
- exclude:
    deprecated: //
`

/** What an exit code other than 0 means for a batch. `Partial` (33) is no failure: other queries' results are written. */
export type ExitMeaning = "Partial" | "NoSource" | "Memory" | "Fault"

export const exitMeaning = (code: number): ExitMeaning =>
  code === 33 ? "Partial" : code === 32 ? "NoSource" : code === 99 || code === 137 ? "Memory" : "Fault"

export interface CliResult {
  /** 137 when the process was killed by a signal. */
  readonly exitCode: number
  readonly stdout: string
  /** Last non-empty line of stderr, at most 300 characters. */
  readonly complaint: string
}

const keptBytes = 4 * 1024 * 1024

/** Runs the executable to its end; none when it took longer than `seconds` (its process group is dead by then). */
export const runCli = Effect.fnUntraced(
  function* (
    executable: string,
    args: ReadonlyArray<string>,
    environment: Readonly<Record<string, string>>,
    seconds: number
  ) {
    const spawner = yield* ChildProcessSpawner.ChildProcessSpawner
    const command = ChildProcess.make(executable, [...args], {
      env: { ...environment },
      stdin: "ignore",
      killSignal: "SIGKILL"
    })
    const finish = Effect.gen(function* () {
      const handle = yield* spawner.spawn(command)
      const [stdout, stderr, exitCode] = yield* Effect.all(
        [
          collect(handle.stdout),
          collect(handle.stderr),
          handle.exitCode.pipe(
            Effect.map(Number),
            Effect.catch(() => Effect.succeed(137))
          )
        ],
        { concurrency: "unbounded" }
      )
      return { exitCode, stdout, complaint: lastLine(stderr) } satisfies CliResult
    }).pipe(Effect.scoped)
    return yield* finish.pipe(Effect.timeoutOption(seconds * 1000))
  },
  Effect.mapError((error) => AnalyzerError.failed(`codeql cannot be run: ${error.message}`))
)

/** Reads to the end and keeps the beginning, so that a chatty process never blocks on a full pipe. */
const collect = <E>(stream: Stream.Stream<Uint8Array, E>) =>
  Stream.runFold(
    stream,
    () => ({ chunks: [] as Array<Uint8Array>, bytes: 0 }),
    (kept, chunk) => {
      if (kept.bytes < keptBytes) kept.chunks.push(chunk)
      kept.bytes += chunk.length
      return kept
    }
  ).pipe(Effect.map(({ chunks }) => Buffer.concat(chunks).toString("utf8")))

const lastLine = (text: string): string =>
  (
    text
      .split("\n")
      .map((line) => line.trim())
      .findLast((line) => line !== "") ?? "no message"
  ).slice(0, 300)

/** Whether `version` (`2.23.3`, `2.24.0+build`) is at least `required`; anything unreadable is not. */
export const atLeast = (version: string, required: string): boolean => {
  const numbers = (text: string) => /^(\d+)\.(\d+)\.(\d+)/.exec(text)?.slice(1).map(Number)
  const have = numbers(version)
  const need = numbers(required)
  if (have === undefined || need === undefined) return false
  for (const [index, part] of need.entries()) {
    const own = have[index] ?? 0
    if (own !== part) return own > part
  }
  return true
}
