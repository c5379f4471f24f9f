/**
 * A JSONL file of rows that take long to make, in any order, by a process that may be killed. Rows go to FILE.partial as
 * they are done; a later process with the same settings makes only those that are missing. The end puts all of them, in
 * order, into FILE in one step: the same bytes however often the work was cut off.
 *
 * Each row carries its place and the hash of what decides it, so a file that belongs to other settings is never mixed in.
 */
import * as fs from "node:fs"
import * as nodePath from "node:path"
import { Effect, type Schema, type Scope, Stream } from "effect"
import { openAppender } from "./Appender.ts"
import { failure, writeFailure } from "./internal/failure.ts"
import { cutTornLine, makeDirectory } from "./internal/files.ts"
import { acquire, release } from "./internal/lock.ts"
import { readJsonLinesNumbered, writeJsonLines } from "./JsonLines.ts"
import type { StoreError } from "./StoreError.ts"

export interface BatchRow {
  /** Place in the file, from 0. */
  readonly index: number
  /** Hash of everything that decides the rows. */
  readonly settings: string
}

export interface Batch<A extends BatchRow> {
  /** Rows that were there when the batch was opened. */
  readonly resumed: number
  /** Places without a row, ascending. */
  readonly missing: ReadonlyArray<number>
  readonly add: (row: A) => Effect.Effect<void, StoreError>
  /** Writes the whole file and removes what it was made from; fails while rows are missing. */
  readonly finish: Effect.Effect<void, StoreError>
}

const lock = (file: string) =>
  Effect.acquireRelease(
    Effect.gen(function* () {
      const name = `${file}.lock`
      const holder = yield* Effect.try({
        try: () => {
          makeDirectory(nodePath.dirname(name))
          return acquire(name)
        },
        catch: writeFailure(file)
      })
      if (holder === null) return name
      const what = `process ${holder.pid} on ${holder.host} writes this file; wait for it, or remove ${name} if it is gone`
      return yield* failure("Locked", file, null, what)
    }),
    (name) => Effect.sync(() => release(name))
  )

/** Opens the batch of `file` with `total` rows. One process at a time; the lock goes with the Scope. */
export const openBatch = Effect.fn("openBatch")(function* <A extends BatchRow, I>(
  file: string,
  schema: Schema.Codec<A, I>,
  options: { readonly total: number; readonly settings: string }
): Effect.fn.Return<Batch<A>, StoreError, Scope.Scope> {
  const partial = `${file}.partial`
  yield* lock(partial)
  yield* Effect.try({ try: () => cutTornLine(partial), catch: writeFailure(partial) })
  const rows = new Map<number, A>()
  if (fs.existsSync(partial)) {
    yield* readJsonLinesNumbered(partial, schema, { allowEmpty: true }).pipe(
      Stream.runForEach(({ line, value }) => {
        if (value.settings !== options.settings)
          return failure(
            "Malformed",
            partial,
            line,
            "it was begun with another input, model or flags; remove it, or write to another file"
          )
        if (value.index < 0 || value.index >= options.total)
          return failure("Malformed", partial, line, `index ${value.index} is not one of ${options.total} rows`)
        rows.set(value.index, value)
        return Effect.void
      })
    )
  }
  const { append } = yield* openAppender(partial, schema)
  const all = Array.from({ length: options.total }, (_, index) => index)
  const finish = Effect.gen(function* () {
    const lacking = all.filter((index) => !rows.has(index)).length
    if (lacking > 0) return yield* failure("Incomplete", file, null, `${lacking} of ${options.total} rows are missing`)
    yield* writeJsonLines(file, schema, Stream.fromIterable([...rows].sort(([a], [b]) => a - b).map(([, row]) => row)))
    yield* Effect.try({ try: () => fs.rmSync(partial, { force: true }), catch: writeFailure(partial) })
  })
  return {
    resumed: rows.size,
    missing: all.filter((index) => !rows.has(index)),
    add: (row) =>
      Effect.andThen(
        append(row),
        Effect.sync(() => rows.set(row.index, row))
      ),
    finish
  }
})
