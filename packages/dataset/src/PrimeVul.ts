/**
 * Reads PrimeVul's own JSONL, paired or not, unmodified, row by row.
 *
 * Unusual: the same reader serves both layouts. A vulnerable row directly followed by a fixed row of the same commit and
 * of the same function is a pair and the sample gets its `twin`; anything else has none. Paired files hold some pairs
 * whose halves are two different functions of one commit: those are not twins and are not treated as such.
 *
 * Contract: memory does not grow with the file except for 48 bits per distinct function, kept to drop duplicates (two
 * functions of 100,000 are taken for one with probability below 2e-5). Nothing that is dropped is silent: it comes out
 * as `Dropped` with its reason. The first row that cannot be read ends the stream with an error naming the line.
 */
import { createReadStream } from "node:fs"
import {
  type CweId,
  defaultCweSet,
  LineSplitter,
  type NumberedLine,
  parseCwe,
  type Sample,
  type Source
} from "@srcode/domain"
import { Effect, Result, Schema, Stream } from "effect"
import { contentHash } from "./ContentHash.ts"
import { DatasetError } from "./DatasetError.ts"
import { functionName, guessLanguage } from "./Language.ts"

const Text = Schema.NullOr(Schema.String)

/** The fields that are used; the others of the schema may be there or not. */
export const PrimeVulRow = Schema.Struct({
  idx: Schema.Union([Schema.String, Schema.Finite]),
  project: Schema.String,
  commit_id: Schema.String,
  target: Schema.Literals([0, 1]),
  func: Schema.String,
  cwe: Schema.optionalKey(Schema.NullOr(Schema.Union([Schema.String, Schema.Array(Text)]))),
  commit_message: Schema.optionalKey(Text),
  file_name: Schema.optionalKey(Text),
  cve: Schema.optionalKey(Text),
  cve_desc: Schema.optionalKey(Text)
})
export type PrimeVulRow = typeof PrimeVulRow.Type

export interface NumberedRow {
  /** 1-based. */
  readonly line: number
  readonly row: PrimeVulRow
}

const malformed = (file: string, line: number, what: string) =>
  new DatasetError({ reason: "Malformed", message: `${file}:${line}: ${what.replace(/\s*\n\s*/g, " ")}`, file, line })

const decodeRow = Schema.decodeUnknownResult(PrimeVulRow)

const toRow = (file: string, line: NumberedLine): Result.Result<NumberedRow, DatasetError> => {
  if (line.text === null) return Result.fail(malformed(file, line.number, line.problem))
  const json = Result.try({ try: (): unknown => JSON.parse(line.text), catch: () => "the line is not JSON" })
  if (Result.isFailure(json)) return Result.fail(malformed(file, line.number, json.failure))
  return Result.mapBoth(decodeRow(json.success), {
    onSuccess: (row) => ({ line: line.number, row }),
    onFailure: (error) => malformed(file, line.number, `not a PrimeVul row: ${error.message}`)
  })
}

const readFailure = (file: string) => (cause: unknown) => {
  const missing = cause instanceof Error && "code" in cause && cause.code === "ENOENT"
  const detail = cause instanceof Error ? cause.message : String(cause)
  const message = missing ? `${file} does not exist; check the path` : `cannot read ${file}: ${detail}`
  return new DatasetError({ reason: missing ? "Missing" : "Unreadable", message, file, line: null })
}

/** The rows with their line numbers. An empty file is an error. */
export const readPrimeVulRows = (
  file: string,
  options: { readonly maxLineBytes?: number } = {}
): Stream.Stream<NumberedRow, DatasetError> =>
  Stream.suspend(() =>
    Stream.fromAsyncIterable<Uint8Array, DatasetError>(createReadStream(file), readFailure(file)).pipe(
      Stream.mapAccum(
        () => new LineSplitter(options.maxLineBytes),
        (splitter, chunk) => [splitter, splitter.push(chunk)] as const,
        { onHalt: (splitter) => splitter.end() }
      ),
      Stream.filter((line) => line.text === null || line.text.trim() !== ""),
      Stream.mapEffect((line) => Effect.fromResult(toRow(file, line))),
      Stream.orElseIfEmpty(() =>
        Stream.fail(new DatasetError({ reason: "Empty", message: `${file}: the file has no rows`, file, line: null }))
      )
    )
  )

/** The classes of a row, normalised and without repeats. Takes a list, one text, or a list written as text. */
export const rowCwes = (cwe: PrimeVulRow["cwe"]): ReadonlyArray<CweId> => {
  const texts = cwe === null || cwe === undefined ? [] : typeof cwe === "string" ? cwe.split(/[,;|\s]+/) : cwe
  const ids = texts.flatMap((text) => {
    const id = text === null ? undefined : parseCwe(text.replace(/["'[\]]/g, ""))
    return id === undefined ? [] : [id]
  })
  return [...new Set(ids)]
}

export const rowSource = (row: PrimeVulRow): Source => ({
  dataset: "primevul",
  idx: String(row.idx),
  project: row.project,
  commitId: row.commit_id,
  commitMessage: row.commit_message ?? "",
  cve: row.cve ?? null,
  cveDescription: row.cve_desc ?? null
})

export type DropReason =
  | "duplicate"
  | "contradiction"
  | "unchanged-twin"
  | "no-cwe"
  | "cwe-not-selected"
  | "too-long"
  | "empty"

/** A row that became a sample, or did not and why. */
export type Selection =
  | { readonly _tag: "Kept"; readonly line: number; readonly sample: Sample }
  | {
      readonly _tag: "Dropped"
      readonly line: number
      readonly source: Source
      readonly sampleId: string
      readonly reason: DropReason
      readonly detail: string
    }

export interface SelectOptions {
  /** A row needs one of these. Default: the domain's set of 14. */
  readonly cwes?: ReadonlyArray<CweId>
  /** Longest function in UTF-16 units. Default 32,768. */
  readonly maxLength?: number
  /** `vulnerable` (default) leaves the fixed rows out, except as twins. */
  readonly include?: "vulnerable" | "all"
}

interface State {
  readonly pending: NumberedRow | null
  /** First 48 bits of the content hashes already seen. */
  readonly vulnerable: Set<number>
  readonly fixed: Set<number>
}

const key = (hash: string): number => Number.parseInt(hash.slice(0, 12), 16)

const isTwin = (a: PrimeVulRow, b: PrimeVulRow): boolean =>
  a.commit_id === b.commit_id && a.project === b.project && functionName(a.func) === functionName(b.func)

/** Turns rows into samples: pairs, languages, classes, duplicates. */
export const selectSamples = (options: SelectOptions = {}) => {
  const wanted = new Set<string>(options.cwes ?? defaultCweSet)
  const maxLength = options.maxLength ?? 32_768

  const select = ({ row, line }: NumberedRow, twin: PrimeVulRow | null, state: State): Selection => {
    const source = rowSource(row)
    const id = contentHash(row.func)
    const dropped = (reason: DropReason, detail: string): Selection => ({
      _tag: "Dropped",
      line,
      source,
      sampleId: id,
      reason,
      detail
    })
    const cwes = rowCwes(row.cwe)
    const [same, other] = row.target === 1 ? [state.vulnerable, state.fixed] : [state.fixed, state.vulnerable]
    if (row.func.trim() === "") return dropped("empty", "the function has no text")
    if (cwes.length === 0) return dropped("no-cwe", "the row names no class")
    if (!cwes.some((cwe) => wanted.has(cwe))) return dropped("cwe-not-selected", cwes.join(", "))
    if (row.func.length > maxLength) return dropped("too-long", `${row.func.length} characters, limit ${maxLength}`)
    if (twin !== null && contentHash(twin.func) === id)
      return dropped("unchanged-twin", "the fix changes only whitespace")
    if (same.has(key(id))) return dropped("duplicate", "the same function came before")
    if (other.has(key(id))) return dropped("contradiction", "the same function came before with the other label")
    same.add(key(id))
    // Wanted classes first: whoever takes the first one gets one of the set.
    const ordered = [...cwes.filter((cwe) => wanted.has(cwe)), ...cwes.filter((cwe) => !wanted.has(cwe))]
    const sample: Sample = {
      id,
      source,
      language: guessLanguage(row.func, row.file_name ?? null),
      vulnerable: row.target === 1,
      code: row.func,
      cwes: ordered,
      twin: twin?.func ?? null
    }
    return { _tag: "Kept", line, sample }
  }

  const step = (state: State, next: NumberedRow): readonly [State, ReadonlyArray<Selection>] => {
    const { pending } = state
    if (next.row.target === 1) {
      const out = pending === null ? [] : [select(pending, null, state)]
      return [{ ...state, pending: next }, out]
    }
    const twin = pending !== null && isTwin(pending.row, next.row) ? next.row : null
    const out = pending === null ? [] : [select(pending, twin, state)]
    if (options.include === "all") return [{ ...state, pending: null }, [...out, select(next, null, state)]]
    state.fixed.add(key(contentHash(next.row.func)))
    return [{ ...state, pending: null }, out]
  }

  return <E, R>(rows: Stream.Stream<NumberedRow, E, R>): Stream.Stream<Selection, E, R> =>
    rows.pipe(
      Stream.mapAccum((): State => ({ pending: null, vulnerable: new Set(), fixed: new Set() }), step, {
        onHalt: (state) => (state.pending === null ? [] : [select(state.pending, null, state)])
      })
    )
}

/** The whole way from file to samples. */
export const readPrimeVul = (
  file: string,
  options: SelectOptions & { readonly maxLineBytes?: number } = {}
): Stream.Stream<Selection, DatasetError> => readPrimeVulRows(file, options).pipe(selectSamples(options))
