/** The two sides beside each other. */
import { Option, Schema } from "effect"
import type { Row } from "./ours.ts"

const RowSchema = Schema.Struct({
  what: Schema.String,
  name: Schema.String,
  seconds: Schema.optionalKey(Schema.Finite),
  min: Schema.optionalKey(Schema.Finite),
  max: Schema.optionalKey(Schema.Finite),
  peak_bytes: Schema.NullOr(Schema.Finite),
  tokens: Schema.optionalKey(Schema.Finite),
  flops: Schema.optionalKey(Schema.Finite),
  problem: Schema.optionalKey(Schema.String)
})

/** What a side leaves in its file; more fields are kept as they are. */
const Side = Schema.StructWithRest(Schema.Struct({ rows: Schema.Array(RowSchema) }), [
  Schema.Record(Schema.String, Schema.Unknown)
])

export interface Ratio {
  readonly what: string
  readonly name: string
  /** Tokens or operations a second. */
  readonly ours: number | null
  readonly torch: number | null
  readonly unit: "tokens/s" | "FLOP/s"
  /** ours / torch: above 1, ours is faster; null where one side is missing. */
  readonly ratio: number | null
  readonly ourPeakBytes: number | null
  readonly torchPeakBytes: number | null
  readonly problem?: string
}

export const decodeSide = (text: string) =>
  Option.getOrUndefined(Schema.decodeUnknownOption(Schema.fromJsonString(Side))(text))

const rate = (row: Row | undefined): number | null =>
  row?.seconds === undefined || row.seconds <= 0 ? null : (row.tokens ?? row.flops ?? 0) / row.seconds

/** What a row is of: a library's own way of doing it is told in brackets. */
const workOf = (name: string): string => name.replace(/ \([^()]*\)$/, "")

/** One line for each piece of work that either side did; what another library did is held against ours of the same. */
export const ratiosOf = (ours: ReadonlyArray<Row>, torch: ReadonlyArray<Row>): ReadonlyArray<Ratio> => {
  const names = [...new Set([...ours, ...torch].map(({ name }) => name))]
  return names.map((name): Ratio => {
    const [a, b] = [ours.find((row) => row.name === workOf(name)), torch.find((row) => row.name === name)]
    const [mine, theirs] = [rate(a), rate(b)]
    const problem = a?.problem ?? (b?.problem === undefined ? undefined : `torch: ${b.problem}`)
    return {
      what: a?.what ?? b?.what ?? "",
      name,
      ours: mine,
      torch: theirs,
      unit: (a ?? b)?.flops === undefined ? "tokens/s" : "FLOP/s",
      ratio: mine === null || theirs === null ? null : mine / theirs,
      ourPeakBytes: a?.peak_bytes ?? null,
      torchPeakBytes: b?.peak_bytes ?? null,
      ...(problem === undefined ? {} : { problem })
    }
  })
}

const number = (value: number | null, scale = 1): string =>
  value === null
    ? "-"
    : (value / scale).toPrecision(4).replace(/\.?0+$/, (zeros) => (zeros.startsWith(".") ? "" : zeros))

export const renderRatios = (ratios: ReadonlyArray<Ratio>): ReadonlyArray<string> => {
  const cells = ratios.map((r) => {
    const tera = r.unit === "FLOP/s"
    return [
      r.name,
      `${number(r.ours, tera ? 1e12 : 1)}`,
      `${number(r.torch, tera ? 1e12 : 1)}`,
      tera ? "TFLOP/s" : "tokens/s",
      r.ratio === null ? "-" : r.ratio.toFixed(3),
      r.ourPeakBytes === null ? "-" : (r.ourPeakBytes / 2 ** 30).toFixed(2),
      r.torchPeakBytes === null ? "-" : (r.torchPeakBytes / 2 ** 30).toFixed(2),
      r.problem ?? ""
    ]
  })
  const head = ["work", "srcode", "torch", "", "ratio", "GiB", "GiB torch", ""]
  const widths = head.map((title, i) => Math.max(title.length, ...cells.map((row) => row[i]?.length ?? 0)))
  const line = (row: ReadonlyArray<string>): string =>
    row
      .map((cell, i) => ([0, 3, 7].includes(i) ? cell.padEnd(widths[i] ?? 0) : cell.padStart(widths[i] ?? 0)))
      .join("  ")
      .trimEnd()
  return [line(head), ...cells.map(line)]
}
