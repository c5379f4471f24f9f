/**
 * One database over a batch of snippets, and what to do when it fails: out of memory halves the batch down to single
 * snippets (on one thread), any other failure and a timeout split it once, so that one poisonous snippet costs its half and
 * not the whole; what still fails is not analysed, with the reason.
 */
import { Effect, FileSystem, Path } from "effect"
import { decodeSarif } from "../../Sarif.ts"
import { analyzeArguments, type CodeQlLanguage, createArguments, exitMeaning, type Resources, runCli } from "./cli.ts"
import { type Outcome, outcomes } from "./results.ts"

export interface BatchItem {
  /** 32 hexadecimal digits. */
  readonly folder: string
  readonly file: string
  readonly code: string
}

export interface BatchOptions<E, R> {
  readonly executable: string
  readonly environment: Readonly<Record<string, string>>
  readonly language: CodeQlLanguage
  readonly suiteFor: (folder: string) => Effect.Effect<string, E, R>
  readonly timeoutSeconds: number
  readonly resources: Resources
}

type Attempt =
  | { readonly _tag: "Done"; readonly outcomes: ReadonlyMap<string, Outcome> }
  | { readonly _tag: "Failed"; readonly memory: boolean; readonly detail: string }

interface Work {
  readonly items: ReadonlyArray<BatchItem>
  readonly splits: number
  readonly resources: Resources
}

export const runBatch = Effect.fnUntraced(function* <E, R>(
  items: ReadonlyArray<BatchItem>,
  options: BatchOptions<E, R>
) {
  const results: Array<readonly [string, Outcome]> = []
  const pending: Array<Work> = [{ items, splits: 0, resources: options.resources }]
  for (let work = pending.shift(); work !== undefined; work = pending.shift()) {
    const attempt = yield* runOnce(work, options)
    if (attempt._tag === "Done") {
      results.push(...attempt.outcomes)
      continue
    }
    yield* Effect.logWarning(`CodeQL failed on ${work.items.length} snippets: ${attempt.detail}`)
    if (work.items.length > 1 && (attempt.memory || work.splits === 0)) {
      const middle = Math.ceil(work.items.length / 2)
      const resources = attempt.memory ? { ...work.resources, threads: 1 } : work.resources
      for (const half of [work.items.slice(0, middle), work.items.slice(middle)]) {
        pending.push({ items: half, splits: work.splits + (attempt.memory ? 0 : 1), resources })
      }
      continue
    }
    const outcome: Outcome = { _tag: "NotAnalysed", reason: attempt.detail }
    results.push(...work.items.map((item) => [item.folder, outcome] as const))
  }
  return results
})

const failed = (detail: string, memory = false): Attempt => ({ _tag: "Failed", memory, detail })

const runOnce = <E, R>(work: Work, options: BatchOptions<E, R>) =>
  Effect.gen(function* () {
    const fs = yield* FileSystem.FileSystem
    const path = yield* Path.Path
    const folder = yield* fs.makeTempDirectoryScoped({ prefix: "srcode-codeql-" })
    const paths = {
      source: path.join(folder, "source"),
      database: path.join(folder, "database"),
      logs: path.join(folder, "logs"),
      output: path.join(folder, "results.sarif")
    }
    yield* fs.makeDirectory(paths.logs)
    for (const item of work.items) {
      yield* fs.makeDirectory(path.join(paths.source, item.folder), { recursive: true })
      yield* fs.writeFileString(path.join(paths.source, item.folder, item.file), item.code)
    }
    const suite = yield* options.suiteFor(folder)
    const run = (args: ReadonlyArray<string>) =>
      runCli(options.executable, args, options.environment, options.timeoutSeconds)

    const created = yield* run(createArguments(paths, options.language, work.resources))
    if (created._tag === "None") return failed(`codeql database create took longer than ${options.timeoutSeconds} s`)
    if (created.value.exitCode !== 0) return explain("create", created.value.exitCode, created.value.complaint)

    const analysed = yield* run(analyzeArguments(paths, suite, work.resources))
    if (analysed._tag === "None") return failed(`codeql database analyze took longer than ${options.timeoutSeconds} s`)
    const partial = exitMeaning(analysed.value.exitCode) === "Partial"
    if (analysed.value.exitCode !== 0 && !partial) {
      return explain("analyze", analysed.value.exitCode, analysed.value.complaint)
    }
    const text = yield* Effect.option(fs.readFileString(paths.output))
    if (text._tag === "None") return failed("codeql wrote no results file")
    const sarif = yield* Effect.option(decodeSarif(text.value))
    if (sarif._tag === "None") return failed("codeql's results file is not complete SARIF 2.1.0")
    const codes = new Map(work.items.map((item) => [item.folder, item.code]))
    return { _tag: "Done", outcomes: outcomes(sarif.value, codes, partial) } satisfies Attempt
  }).pipe(Effect.scoped)

const explain = (command: string, exitCode: number, complaint: string): Attempt => {
  const meaning = exitMeaning(exitCode)
  if (meaning === "NoSource") return failed("codeql found no source it could read (exit code 32)")
  if (meaning === "Memory") return failed(`codeql database ${command} ran out of memory (exit code ${exitCode})`, true)
  return failed(`codeql database ${command} ended with code ${exitCode}: ${complaint}`)
}
