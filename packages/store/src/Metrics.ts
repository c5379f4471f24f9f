/**
 * `metrics.jsonl`: one line per step of a stage, `{"stage":"rl-gated","step":3,"objective/kl":0.01,…}` with the names
 * used in the field.
 *
 * Unusual: the file is append-only and yet ends up the same bytes whether a run was killed or not. Opening a stage's
 * writer at step s cuts a torn last line and removes that stage's lines with step ≥ s; the steps that are run again
 * append them anew. Lines of other stages stay. A number that JSON cannot hold (NaN, infinity) is written as null.
 */
import * as fs from "node:fs"
import * as nodePath from "node:path"
import { Effect, Schema, type Stream } from "effect"
import { failure, readFailure, writeFailure } from "./internal/failure.ts"
import { cutTornLine, makeDirectory, writeAll, writeAtomic } from "./internal/files.ts"
import { readJsonLines } from "./JsonLines.ts"
import type { StoreError } from "./StoreError.ts"

export const MetricValue = Schema.NullOr(Schema.Union([Schema.Finite, Schema.String, Schema.Boolean]))
export type MetricValue = typeof MetricValue.Type

export const MetricLine = Schema.StructWithRest(Schema.Struct({ stage: Schema.String, step: Schema.Int }), [
  Schema.Record(Schema.String, MetricValue)
])
export type MetricLine = typeof MetricLine.Type

export interface MetricsWriter {
  /** Appends one line and waits until it is on the disk. */
  append(step: number, values: Readonly<Record<string, MetricValue>>): Effect.Effect<void, StoreError>
}

/** A file without a line is fine here: a run may have logged nothing yet. */
export const readMetrics = (file: string): Stream.Stream<MetricLine, StoreError> =>
  readJsonLines(file, MetricLine, { allowEmpty: true })

const removeFrom = Effect.fnUntraced(function* (file: string, stage: string, step: number) {
  yield* Effect.try({ try: () => cutTornLine(file), catch: writeFailure(file) })
  if (!fs.existsSync(file)) return
  const text = yield* Effect.try({ try: () => fs.readFileSync(file, "utf8"), catch: readFailure(file) })
  // Texts are filtered, not decoded and written again: what stays, stays byte for byte.
  const lines = text.split("\n").slice(0, -1)
  const keep: Array<string> = []
  for (const [index, line] of lines.entries()) {
    const value = yield* Schema.decodeEffect(Schema.fromJsonString(MetricLine))(line).pipe(
      Effect.mapError((error) => failure("Malformed", file, index + 1, error.message))
    )
    if (value.stage !== stage || value.step < step) keep.push(`${line}\n`)
  }
  if (keep.length === lines.length) return
  yield* Effect.try({
    try: () => writeAtomic(file, new TextEncoder().encode(keep.join(""))),
    catch: writeFailure(file)
  })
})

/** Opens the writer of one stage that is about to run step `fromStep` (0 for a new start). Closed with the scope. */
export const openMetrics = Effect.fn("openMetrics")(function* (file: string, stage: string, fromStep: number) {
  yield* Effect.try({
    try: () => makeDirectory(nodePath.dirname(file)),
    catch: writeFailure(file)
  })
  yield* removeFrom(file, stage, fromStep)
  const fd = yield* Effect.acquireRelease(
    Effect.try({ try: () => fs.openSync(file, "a"), catch: writeFailure(file) }),
    (fd) => Effect.sync(() => fs.closeSync(fd))
  )
  const append: MetricsWriter["append"] = Effect.fn("Metrics.append")((step, values) =>
    Effect.try({
      try: () => {
        // A value cannot take the place of the two keys, which also come first.
        const line = Object.assign({ stage, step }, values, { stage, step })
        writeAll(fd, new TextEncoder().encode(`${JSON.stringify(line)}\n`))
        fs.fdatasyncSync(fd)
      },
      catch: writeFailure(file)
    })
  )
  const writer: MetricsWriter = { append }
  return writer
})
