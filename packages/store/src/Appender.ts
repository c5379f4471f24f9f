/** A JSONL file that grows by whole lines: each is on the disk before `append` returns, and a kill tears at most the last. */
import * as fs from "node:fs"
import * as nodePath from "node:path"
import { Effect, Result, type Schema, type Scope } from "effect"
import { writeFailure } from "./internal/failure.ts"
import { cutTornLine, makeDirectory, writeAll } from "./internal/files.ts"
import { encodeJsonLine } from "./JsonLines.ts"
import type { StoreError } from "./StoreError.ts"

export interface LineAppender<A> {
  /** Appends one line and waits until it is on the disk. */
  append(value: A): Effect.Effect<void, StoreError>
}

/** Opens a JSONL file for appending; a torn last line of a killed run is cut off first. */
export const openAppender = Effect.fn("openAppender")(function* <A, I>(
  file: string,
  schema: Schema.Codec<A, I>
): Effect.fn.Return<LineAppender<A>, StoreError, Scope.Scope> {
  const fd = yield* Effect.acquireRelease(
    Effect.try({
      try: () => {
        makeDirectory(nodePath.dirname(file))
        cutTornLine(file)
        return fs.openSync(file, "a")
      },
      catch: writeFailure(file)
    }),
    (fd) => Effect.sync(() => fs.closeSync(fd))
  )
  const encode = encodeJsonLine(file, schema)
  const append = (value: A) =>
    Effect.suspend(() => {
      const line = encode(value)
      if (Result.isFailure(line)) return Effect.fail(line.failure)
      return Effect.try({
        try: () => {
          writeAll(fd, new TextEncoder().encode(line.success))
          fs.fdatasyncSync(fd)
        },
        catch: writeFailure(file)
      })
    })
  return { append }
})
