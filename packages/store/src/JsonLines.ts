/**
 * JSONL by Schema, both ways, in constant memory. Every failure is a `StoreError` that names the file and the 1-based
 * line. Reading skips blank lines; a file with no row at all is an error unless `allowEmpty` says otherwise, because for
 * an input it nearly always means the wrong file. Writing is atomic: readers see the old file or the whole new one.
 */
import * as fs from "node:fs"
import * as nodePath from "node:path"
import { LineSplitter, type NumberedLine } from "@srcode/domain"
import { Effect, Exit, Result, Schema, Stream } from "effect"
import { failure, readFailure, schemaFailure, writeFailure } from "./internal/failure.ts"
import { makeDirectory, syncDirectory, temporaryName, writeAll } from "./internal/files.ts"
import type { StoreError } from "./StoreError.ts"

export interface ReadOptions {
  readonly allowEmpty?: boolean
  /** Longest line accepted, in bytes. Default 64 MiB. */
  readonly maxLineBytes?: number
}

export interface Row<A> {
  readonly line: number
  readonly value: A
}

const numberedLines = (file: string, maxBytes?: number): Stream.Stream<NumberedLine, StoreError> =>
  Stream.suspend(() =>
    Stream.fromAsyncIterable<Uint8Array, StoreError>(fs.createReadStream(file), readFailure(file)).pipe(
      Stream.mapAccum(
        () => new LineSplitter(maxBytes),
        (splitter, chunk) => [splitter, splitter.push(chunk)] as const,
        { onHalt: (splitter) => splitter.end() }
      )
    )
  )

const isBlank = (line: NumberedLine): boolean => line.text !== null && line.text.trim() === ""

const parseJson = (text: string): Result.Result<unknown, string> =>
  Result.try({ try: (): unknown => JSON.parse(text), catch: () => "the line is not JSON" })

/** Decodes one line's text; the error names `file` and `line`. */
const decodeLine = <A, I>(schema: Schema.Codec<A, I>, file: string) => {
  const decode = Schema.decodeUnknownResult(schema)
  return (line: NumberedLine): Effect.Effect<Row<A>, StoreError> => {
    if (line.text === null) return Effect.fail(failure("Malformed", file, line.number, line.problem))
    const json = parseJson(line.text)
    if (Result.isFailure(json)) return Effect.fail(failure("Malformed", file, line.number, json.failure))
    const value = decode(json.success)
    return Result.isFailure(value)
      ? Effect.fail(schemaFailure(file, line.number, value.failure))
      : Effect.succeed({ line: line.number, value: value.success })
  }
}

/** The rows of a JSONL file with their line numbers. */
export const readJsonLinesNumbered = <A, I>(
  file: string,
  schema: Schema.Codec<A, I>,
  options: ReadOptions = {}
): Stream.Stream<Row<A>, StoreError> => {
  const rows = numberedLines(file, options.maxLineBytes).pipe(
    Stream.filter((line) => !isBlank(line)),
    Stream.mapEffect(decodeLine(schema, file))
  )
  if (options.allowEmpty === true) return rows
  return rows.pipe(Stream.orElseIfEmpty(() => Stream.fail(failure("Empty", file, null, "the file has no rows"))))
}

/** The rows of a JSONL file. */
export const readJsonLines = <A, I>(file: string, schema: Schema.Codec<A, I>, options: ReadOptions = {}) =>
  readJsonLinesNumbered(file, schema, options).pipe(Stream.map((row) => row.value))

/** One value as a JSONL line with its line end. Fails when the value does not fit the schema. */
export const encodeJsonLine = <A, I>(file: string, schema: Schema.Codec<A, I>) => {
  const encode = Schema.encodeUnknownResult(schema)
  return (value: A): Result.Result<string, StoreError> =>
    Result.map(
      Result.mapError(encode(value), (error) => schemaFailure(file, null, error)),
      (encoded) => `${JSON.stringify(encoded)}\n`
    )
}

/**
 * Writes the stream's rows to `file` (parent directories are made) and returns their number. When the stream fails or is
 * interrupted, `file` keeps what it held before.
 */
export const writeJsonLines = <A, I, E, R>(
  file: string,
  schema: Schema.Codec<A, I>,
  rows: Stream.Stream<A, E, R>
): Effect.Effect<number, E | StoreError, R> => {
  const encode = encodeJsonLine(file, schema)
  const attempt = <B>(run: () => B) => Effect.try({ try: run, catch: writeFailure(file) })
  return Effect.acquireUseRelease(
    attempt(() => {
      makeDirectory(nodePath.dirname(file))
      const temporary = temporaryName(file)
      return { temporary, fd: fs.openSync(temporary, "wx") }
    }),
    ({ temporary, fd }) =>
      Effect.gen(function* () {
        let count = 0
        yield* Stream.runForEachArray(rows, (chunk) => {
          const lines = Result.all(chunk.map(encode))
          count += chunk.length
          return Result.isFailure(lines)
            ? Effect.fail(lines.failure)
            : attempt(() => writeAll(fd, new TextEncoder().encode(lines.success.join(""))))
        })
        yield* attempt(() => {
          fs.fsyncSync(fd)
          fs.renameSync(temporary, file)
          syncDirectory(nodePath.dirname(file))
        })
        return count
      }),
    ({ temporary, fd }, exit) =>
      Effect.sync(() => {
        fs.closeSync(fd)
        if (Exit.isFailure(exit)) fs.rmSync(temporary, { force: true })
      })
  )
}
