/** Whole files: read as text or JSON by Schema, written atomically (temp file, fsync, rename, fsync of the directory). */
import * as fs from "node:fs"
import { Effect, Result, Schema } from "effect"
import { failure, readFailure, schemaFailure, writeFailure } from "./internal/failure.ts"
import { probeWrite, writeAtomic } from "./internal/files.ts"

/** Replaces `file` in one step; parent directories are made. */
export const writeFileAtomic = Effect.fn("writeFileAtomic")((file: string, data: string | Uint8Array) =>
  Effect.try({
    try: () => writeAtomic(file, typeof data === "string" ? new TextEncoder().encode(data) : data),
    catch: writeFailure(file)
  })
)

/** Fails now as writing `file` would fail later: asked before work whose result goes there. Parent directories are made. */
export const requireWritable = Effect.fn("requireWritable")((file: string) =>
  Effect.try({ try: () => probeWrite(file), catch: writeFailure(file) })
)

export const readBytes = Effect.fn("readBytes")((file: string) =>
  Effect.tryPromise({
    try: async (signal): Promise<Uint8Array> => fs.promises.readFile(file, { signal }),
    catch: readFailure(file)
  })
)

/** Strict UTF-8: a file that is not text fails with `Malformed`. */
export const readText = Effect.fn("readText")(function* (file: string) {
  const bytes = yield* readBytes(file)
  return yield* Effect.try({
    try: () => new TextDecoder("utf-8", { fatal: true }).decode(bytes),
    catch: () => failure("Malformed", file, null, "the file is not valid UTF-8")
  })
})

export const readJson = Effect.fn("readJson")(function* <A, I>(file: string, schema: Schema.Codec<A, I>) {
  const text = yield* readText(file)
  const json = yield* Effect.try({
    try: (): unknown => JSON.parse(text),
    catch: () => failure("Malformed", file, null, text.trim() === "" ? "the file is empty" : "the file is not JSON")
  })
  const value = Schema.decodeUnknownResult(schema)(json)
  if (Result.isFailure(value)) return yield* schemaFailure(file, null, value.failure)
  return value.success
})

/** Indented by two spaces, with a line end. */
export const writeJson = Effect.fn("writeJson")(function* <A, I>(file: string, schema: Schema.Codec<A, I>, value: A) {
  const encoded = Schema.encodeUnknownResult(schema)(value)
  if (Result.isFailure(encoded)) return yield* schemaFailure(file, null, encoded.failure)
  yield* writeFileAtomic(file, `${JSON.stringify(encoded.success, null, 2)}\n`)
})
