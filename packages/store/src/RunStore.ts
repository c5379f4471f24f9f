/**
 * A run directory: everything one run reads back about itself. Paths given to the service are relative to it.
 *
 * Unusual: a stage is content-addressed by its inputs. `stage` runs its effect once per inputs hash and then records the
 * SHA-256 of every output; the next call with the same inputs and untouched outputs skips it. An interrupted attempt is
 * told apart from an old one with other inputs, so that partial state is continued only when it belongs to these inputs.
 *
 * Contract: one process per directory (lock file, stale locks are taken over); every whole file is replaced atomically;
 * appended files lose at most their torn last line.
 */
import * as fs from "node:fs"
import * as os from "node:os"
import * as nodePath from "node:path"
import { RunManifest } from "@srcode/domain"
import { Context, Effect, Layer, Schema, type Scope, Stream } from "effect"
import { type LineAppender, openAppender } from "./Appender.ts"
import { readJson, readText, writeFileAtomic, writeJson } from "./Files.ts"
import { hashFile } from "./Hash.ts"
import { failure, writeFailure } from "./internal/failure.ts"
import { filesUnder, makeDirectory, sweepTemporaries } from "./internal/files.ts"
import { acquire, release } from "./internal/lock.ts"
import { type ReadOptions, readJsonLines, writeJsonLines } from "./JsonLines.ts"
import { type MetricLine, type MetricsWriter, openMetrics, readMetrics } from "./Metrics.ts"
import type { StoreError } from "./StoreError.ts"

export const StageMarker = Schema.Struct({
  name: Schema.String,
  inputsHash: Schema.String,
  /** `running` is written before the work starts, `done` after its outputs are on the disk. */
  status: Schema.Literals(["running", "done"]),
  /** SHA-256 (hex) of each output file by its relative path. */
  outputs: Schema.Record(Schema.String, Schema.String)
})
export type StageMarker = typeof StageMarker.Type

export interface StageContext {
  /** True when an earlier attempt with the same inputs was cut off: its partial state may be continued. */
  readonly resumed: boolean
}

export interface StageOptions<E, R> {
  readonly name: string
  /** Hash of everything the stage depends on: configuration, seeds, hashes of the files it reads. */
  readonly inputsHash: string
  /** Files or directories with partial state, removed before an attempt that does not resume one. */
  readonly partial?: ReadonlyArray<string>
  /** Does the work and returns the relative paths of its outputs (files, or directories taken whole). */
  run(context: StageContext): Effect.Effect<ReadonlyArray<string>, E, R>
}

export interface StageResult {
  readonly skipped: boolean
  /** SHA-256 (hex) by relative path, sorted: feed these into the inputs hash of the next stage. */
  readonly outputs: Readonly<Record<string, string>>
}

export class RunStore extends Context.Service<
  RunStore,
  {
    /** Absolute path of the run directory. */
    readonly dir: string
    /** Absolute path of a file in it. */
    path(relative: string): string
    exists(relative: string): Effect.Effect<boolean>
    /** Removes a file or a directory with all in it; nothing happens when it is not there. */
    remove(relative: string): Effect.Effect<void, StoreError>
    write(relative: string, data: string | Uint8Array): Effect.Effect<void, StoreError>
    readText(relative: string): Effect.Effect<string, StoreError>
    writeJson<A, I>(relative: string, schema: Schema.Codec<A, I>, value: A): Effect.Effect<void, StoreError>
    readJson<A, I>(relative: string, schema: Schema.Codec<A, I>): Effect.Effect<A, StoreError>
    writeLines<A, I, E, R>(
      relative: string,
      schema: Schema.Codec<A, I>,
      rows: Stream.Stream<A, E, R>
    ): Effect.Effect<number, E | StoreError, R>
    readLines<A, I>(relative: string, schema: Schema.Codec<A, I>, options?: ReadOptions): Stream.Stream<A, StoreError>
    /** Opens a JSONL file for appending; a torn last line of a killed run is cut off first. */
    appender<A, I>(
      relative: string,
      schema: Schema.Codec<A, I>
    ): Effect.Effect<LineAppender<A>, StoreError, Scope.Scope>
    /** SHA-256 (hex) of a file. */
    hash(relative: string): Effect.Effect<string, StoreError>
    writeManifest(manifest: RunManifest): Effect.Effect<void, StoreError>
    /** Null when the run has no manifest yet. */
    readonly readManifest: Effect.Effect<RunManifest | null, StoreError>
    /** The writer of one stage's lines in `metrics.jsonl`, at the step that runs next. */
    metrics(stage: string, fromStep: number): Effect.Effect<MetricsWriter, StoreError, Scope.Scope>
    /** Nothing when no stage has logged yet. */
    readonly readMetrics: Stream.Stream<MetricLine, StoreError>
    stage<E, R>(options: StageOptions<E, R>): Effect.Effect<StageResult, E | StoreError, R>
  }
>()("@srcode/store/RunStore") {
  /** Makes the directory, locks it for this process and sweeps what a killed run left half-written. */
  static readonly layer = (dir: string): Layer.Layer<RunStore, StoreError> => Layer.effect(RunStore, make(dir))

  /** A run directory in the system's temporary folder that is removed with the layer. */
  static readonly layerTest: Layer.Layer<RunStore, StoreError> = Layer.effect(
    RunStore,
    Effect.acquireRelease(
      Effect.try({
        try: () => fs.mkdtempSync(nodePath.join(os.tmpdir(), "srcode-run-")),
        catch: writeFailure(os.tmpdir())
      }),
      (dir) => Effect.sync(() => fs.rmSync(dir, { recursive: true, force: true }))
    ).pipe(Effect.flatMap((dir) => make(dir)))
  )
}

const lock = (dir: string) =>
  Effect.acquireRelease(
    Effect.gen(function* () {
      const file = yield* Effect.try({
        try: () => {
          makeDirectory(dir)
          return nodePath.join(fs.realpathSync(dir), "run.lock")
        },
        catch: writeFailure(dir)
      })
      const holder = yield* Effect.try({ try: () => acquire(file), catch: writeFailure(dir) })
      if (holder !== null) {
        const what = `process ${holder.pid} on ${holder.host} runs this directory; wait for it, or remove run.lock if it is gone`
        return yield* failure("Locked", dir, null, what)
      }
      return file
    }),
    (file) => Effect.sync(() => release(file))
  )

const make = Effect.fnUntraced(function* (directory: string) {
  const dir = nodePath.resolve(directory)
  yield* lock(dir)
  yield* Effect.try({ try: () => sweepTemporaries(dir), catch: writeFailure(dir) })

  const path = (relative: string) => nodePath.join(dir, relative)
  const exists = (relative: string) => Effect.sync(() => fs.existsSync(path(relative)))
  const remove = (relative: string) =>
    Effect.try({
      try: () => fs.rmSync(path(relative), { recursive: true, force: true }),
      catch: writeFailure(path(relative))
    })

  const appender = <A, I>(relative: string, schema: Schema.Codec<A, I>) => openAppender(path(relative), schema)

  /** Hashes of all files at or under the given paths; null when one is not there. */
  const hashOutputs = Effect.fnUntraced(function* (paths: ReadonlyArray<string>) {
    const outputs: Record<string, string> = {}
    for (const relative of paths) {
      if (!fs.existsSync(path(relative))) return null
      const files = yield* Effect.try({ try: () => filesUnder(dir, relative), catch: writeFailure(path(relative)) })
      for (const file of files) outputs[file] = yield* hashFile(path(file))
    }
    return Object.fromEntries(Object.entries(outputs).sort(([a], [b]) => (a < b ? -1 : 1)))
  })

  const stage = Effect.fn("RunStore.stage")(function* <E, R>(options: StageOptions<E, R>) {
    const { name, inputsHash } = options
    const markerFile = path(`stages/${name}.json`)
    const earlier = fs.existsSync(markerFile)
      ? yield* readJson(markerFile, StageMarker).pipe(Effect.catch(() => Effect.succeed(null)))
      : null
    const same = earlier?.inputsHash === inputsHash
    if (earlier !== null && same && earlier.status === "done") {
      const now = yield* hashOutputs(Object.keys(earlier.outputs))
      const recorded = Object.entries(earlier.outputs)
      if (now !== null && recorded.every(([file, hash]) => now[file] === hash)) {
        const skipped: StageResult = { skipped: true, outputs: now }
        return skipped
      }
    }
    const resumed = same && earlier?.status === "running"
    if (!resumed) for (const partial of options.partial ?? []) yield* remove(partial)
    yield* writeJson(markerFile, StageMarker, { name, inputsHash, status: "running", outputs: {} })
    const produced = yield* options.run({ resumed })
    const outputs = yield* hashOutputs(produced)
    if (outputs === null) {
      const missing = produced.filter((relative) => !fs.existsSync(path(relative)))
      return yield* failure("Incomplete", dir, null, `stage ${name} did not write ${missing.join(", ")}`)
    }
    yield* writeJson(markerFile, StageMarker, { name, inputsHash, status: "done", outputs })
    const result: StageResult = { skipped: false, outputs }
    return result
  })

  return RunStore.of({
    dir,
    path,
    exists,
    remove,
    write: (relative, data) => writeFileAtomic(path(relative), data),
    readText: (relative) => readText(path(relative)),
    writeJson: (relative, schema, value) => writeJson(path(relative), schema, value),
    readJson: (relative, schema) => readJson(path(relative), schema),
    writeLines: (relative, schema, rows) => writeJsonLines(path(relative), schema, rows),
    readLines: (relative, schema, options) => readJsonLines(path(relative), schema, options),
    appender,
    hash: (relative) => hashFile(path(relative)),
    writeManifest: (manifest) => writeJson(path("run.json"), RunManifest, manifest),
    readManifest: Effect.suspend(() =>
      fs.existsSync(path("run.json")) ? readJson(path("run.json"), RunManifest) : Effect.succeed(null)
    ),
    metrics: (stageName, fromStep) => openMetrics(path("metrics.jsonl"), stageName, fromStep),
    readMetrics: Stream.suspend(() =>
      fs.existsSync(path("metrics.jsonl")) ? readMetrics(path("metrics.jsonl")) : Stream.empty
    ),
    stage
  })
})
