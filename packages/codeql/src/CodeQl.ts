/**
 * Drives an installed CodeQL command line over many snippets per database.
 *
 * Unusual: CodeQL is neither bundled nor downloaded (its licence allows open-source code bases and academic research, not
 * redistribution); it is looked up when first needed, by `CODEQL_PATH` or on `PATH`, and its version is checked. Start-up,
 * import and query evaluation are paid per database, so snippets share one; a batch that fails is split.
 *
 * Settings: CODEQL_PATH, CODEQL_PROFILE (default | extended | all-security), CODEQL_BATCH (snippets per database, at most
 * 2000), CODEQL_TIMEOUT_SECONDS (wall clock per command), CODEQL_THREADS (0 = all), CODEQL_RAM_MB.
 */
import { createHash } from "node:crypto"
import * as NodeServices from "@effect/platform-node/NodeServices"
import { Analysis, type Snippet } from "@srcode/domain"
import { stripAnalyzerTricks } from "@srcode/sandbox"
import { Config, Context, Effect, FileSystem, Layer, Path, Schema, Semaphore } from "effect"
import { ChildProcessSpawner } from "effect/process"
import { AnalyzerError } from "./AnalyzerError.ts"
import { type BatchItem, runBatch } from "./internal/codeql/batch.ts"
import {
  allSecuritySuite,
  atLeast,
  type CodeQlLanguage,
  type CodeQlProfile,
  packagedSuite,
  requiredVersion,
  runCli
} from "./internal/codeql/cli.ts"
import type { Outcome } from "./internal/codeql/results.ts"

export interface CodeQlStatus {
  readonly found: boolean
  readonly version: string | null
  /** Languages whose extractor is installed, as CodeQL names them (`cpp`, `python`, …). */
  readonly languages: ReadonlyArray<string>
  readonly detail: string
}

/** To be shown once to a user who lets this program drive CodeQL. */
export const codeQlLicenceNotice =
  "CodeQL is subject to the GitHub CodeQL Terms and Conditions: free for open-source code bases and academic research."

const installHint =
  "install the CodeQL bundle (github.com/github/codeql-action releases), put codeql on PATH or set CODEQL_PATH"

const commonPath = "/usr/local/bin:/usr/bin:/bin"

const settings = Config.all({
  path: Config.String("CODEQL_PATH").pipe(Config.withDefault("")),
  search: Config.String("PATH").pipe(Config.withDefault(commonPath)),
  home: Config.String("HOME").pipe(Config.withDefault("/")),
  profile: Config.Literals(["default", "extended", "all-security"], "CODEQL_PROFILE").pipe(
    Config.withDefault("extended" satisfies CodeQlProfile)
  ),
  batch: Config.Int("CODEQL_BATCH").pipe(Config.withDefault(500)),
  timeoutSeconds: Config.Int("CODEQL_TIMEOUT_SECONDS").pipe(Config.withDefault(3600)),
  threads: Config.Int("CODEQL_THREADS").pipe(Config.withDefault(0)),
  ramMb: Config.Int("CODEQL_RAM_MB").pipe(Config.withDefault(0))
})

const VersionAnswer = Schema.fromJsonString(Schema.Struct({ version: Schema.String }))
const LanguagesAnswer = Schema.fromJsonString(Schema.Record(Schema.String, Schema.Unknown))
const QueriesAnswer = Schema.fromJsonString(Schema.Array(Schema.String))

export class CodeQl extends Context.Service<
  CodeQl,
  {
    /** What is installed. Never fails. */
    readonly status: Effect.Effect<CodeQlStatus>
    /** The exact query files of the configured profile, for the run manifest. */
    queries(language: CodeQlLanguage): Effect.Effect<ReadonlyArray<string>, AnalyzerError>
    /** Result i answers snippet i. */
    analyze(snippets: ReadonlyArray<Snippet>): Effect.Effect<ReadonlyArray<Analysis>, AnalyzerError>
  }
>()("@srcode/codeql/CodeQl") {
  static readonly layerNoDeps = Layer.effect(
    CodeQl,
    Effect.gen(function* () {
      const config = yield* settings.pipe(
        Effect.mapError((error) => AnalyzerError.failed(`CodeQL settings: ${error.message}`))
      )
      const fs = yield* FileSystem.FileSystem
      const path = yield* Path.Path
      const spawner = yield* ChildProcessSpawner.ChildProcessSpawner
      const environment = { PATH: config.search, HOME: config.home, LANG: "C.UTF-8" }
      const batchSize = Math.max(1, Math.min(2000, config.batch))
      // One evaluation at a time: each takes all cores and most of the memory.
      const turn = yield* Semaphore.make(1)

      const locate = Effect.gen(function* () {
        const candidates =
          config.path === ""
            ? config.search.split(":").map((folder) => path.join(folder, "codeql"))
            : [config.path, path.join(config.path, "codeql")]
        for (const candidate of candidates.filter((file) => path.isAbsolute(file))) {
          const info = yield* Effect.option(fs.stat(candidate))
          if (info._tag === "Some" && info.value.type === "File") return candidate
        }
        return yield* config.path === ""
          ? AnalyzerError.unavailable("codeql is not on PATH", installHint)
          : AnalyzerError.unavailable(
              `CODEQL_PATH is ${config.path}, where no codeql is`,
              "correct or unset CODEQL_PATH"
            )
      })

      const ask = Effect.fnUntraced(function* <A>(
        executable: string,
        args: ReadonlyArray<string>,
        schema: Schema.Codec<A, string>
      ) {
        const answer = yield* runCli(executable, args, environment, Math.min(120, config.timeoutSeconds))
        const shown = `codeql ${args.slice(0, 2).join(" ")}`
        if (answer._tag === "None") return yield* AnalyzerError.failed(`${shown} did not end in time`)
        if (answer.value.exitCode !== 0) {
          return yield* AnalyzerError.failed(
            `${shown} ended with code ${answer.value.exitCode}: ${answer.value.complaint}`
          )
        }
        return yield* Schema.decodeUnknownEffect(schema)(answer.value.stdout).pipe(
          Effect.mapError(() => AnalyzerError.failed(`${shown} gave an answer that is not the expected JSON`))
        )
      })

      const installed = yield* Effect.cached(
        Effect.gen(function* () {
          const executable = yield* locate
          const { version } = yield* ask(executable, ["version", "--format=json"], VersionAnswer)
          if (!atLeast(version, requiredVersion)) {
            return yield* AnalyzerError.unavailable(
              `codeql ${version} is too old for C/C++ without a build, at least ${requiredVersion} is needed`,
              installHint
            )
          }
          const languages = Object.keys(
            yield* ask(executable, ["resolve", "languages", "--format=json"], LanguagesAnswer)
          )
          return { executable, version, languages }
        }).pipe(Effect.provideService(ChildProcessSpawner.ChildProcessSpawner, spawner))
      )

      const status = installed.pipe(
        Effect.match({
          onFailure: (error): CodeQlStatus => ({ found: false, version: null, languages: [], detail: error.message }),
          onSuccess: ({ executable, version, languages }): CodeQlStatus => ({
            found: true,
            version,
            languages,
            detail: `codeql ${version} at ${executable}, profile ${config.profile}`
          })
        })
      )

      /** The suite argument; `folder` is where a suite file of our own may be written. */
      const suiteFor = Effect.fnUntraced(function* (language: CodeQlLanguage, folder: string) {
        const packaged = packagedSuite(language, config.profile)
        if (packaged !== undefined) return packaged
        const file = path.join(folder, `${language}-all-security.qls`)
        yield* fs.writeFileString(file, allSecuritySuite(language))
        return file
      })

      const queries = Effect.fn("CodeQl.queries")(
        function* (language: CodeQlLanguage) {
          const { executable } = yield* installed
          const folder = yield* fs.makeTempDirectoryScoped({ prefix: "srcode-codeql-" })
          const suite = yield* suiteFor(language, folder)
          return yield* ask(executable, ["resolve", "queries", suite, "--format=json"], QueriesAnswer)
        },
        Effect.scoped,
        Effect.catchTag("PlatformError", (error) => AnalyzerError.failed(error.message)),
        Effect.provideService(ChildProcessSpawner.ChildProcessSpawner, spawner)
      )

      const analyzeLanguage = Effect.fnUntraced(function* (language: CodeQlLanguage, items: ReadonlyArray<BatchItem>) {
        const { executable, languages } = yield* installed
        if (!languages.includes(language)) {
          const outcome: Outcome = { _tag: "NotAnalysed", reason: `this CodeQL has no extractor for ${language}` }
          return items.map((item) => [item.folder, outcome] as const)
        }
        const results: Array<readonly [string, Outcome]> = []
        for (let start = 0; start < items.length; start += batchSize) {
          const answers = yield* runBatch(items.slice(start, start + batchSize), {
            executable,
            environment,
            language,
            suiteFor: (folder) => suiteFor(language, folder),
            timeoutSeconds: config.timeoutSeconds,
            resources: { threads: config.threads, ramMb: config.ramMb > 0 ? config.ramMb : undefined }
          })
          results.push(...answers)
        }
        return results
      })

      const analyze = Effect.fn("CodeQl.analyze")(
        function* (snippets: ReadonlyArray<Snippet>) {
          if (snippets.length === 0) return []
          const prepared = snippets.map(prepare)
          const answers = new Map<string, Outcome>()
          for (const language of ["cpp", "python"] as const) {
            const own = prepared.filter((item) => item.database === language)
            const items = [...new Map(own.map((item) => [item.folder, item])).values()]
            if (items.length === 0) continue
            for (const [folder, outcome] of yield* analyzeLanguage(language, items)) answers.set(folder, outcome)
          }
          return snippets.map((snippet, index) => toAnalysis(snippet.id, answers.get(prepared[index]?.folder ?? "")))
        },
        turn.withPermits(1),
        Effect.catchTag("PlatformError", (error) => AnalyzerError.failed(error.message)),
        Effect.provideService(ChildProcessSpawner.ChildProcessSpawner, spawner),
        Effect.provideService(FileSystem.FileSystem, fs),
        Effect.provideService(Path.Path, path)
      )

      return CodeQl.of({ status, queries, analyze })
    })
  )

  static readonly layer = CodeQl.layerNoDeps.pipe(Layer.provide(NodeServices.layer))
}

const extensions = { c: "c", cpp: "cpp", python: "py" } as const

/** Own file names only: the folder is a hash of the text, so equal snippets are analysed once. */
const prepare = (snippet: Snippet): BatchItem & { readonly database: CodeQlLanguage } => {
  const code = stripAnalyzerTricks(snippet.code.replace(/\r\n?/g, "\n"), snippet.language).code
  const extension = extensions[snippet.language]
  const folder = createHash("sha256").update(`${extension}\n${code}`).digest("hex").slice(0, 32)
  return { folder, file: `snippet.${extension}`, code, database: snippet.language === "python" ? "python" : "cpp" }
}

const toAnalysis = (snippetId: string, outcome: Outcome | undefined): Analysis => {
  if (outcome === undefined || outcome._tag === "NotAnalysed") {
    return Analysis.cases.NotAnalysed.make({ snippetId, reason: outcome?.reason ?? "CodeQL gave no answer for it" })
  }
  return outcome.findings.length > 0
    ? Analysis.cases.Alerts.make({ snippetId, findings: outcome.findings, tools: ["codeql"] })
    : Analysis.cases.Clean.make({ snippetId, tools: ["codeql"] })
}
