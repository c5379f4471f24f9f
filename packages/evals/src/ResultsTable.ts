/** The closing table of a run: one line per arm, each rate with k/N and its 95 % Wilson interval. Plain text. */
import type { EvalResult, Rate } from "@srcode/domain"

const arms: Record<string, string> = {
  base: "base",
  sft: "SFT",
  "rl-none": "RL without token rewards",
  "rl-gated": "RL with token rewards",
  "rl-naive": "RL with token rewards, naive",
  "rl-literal": "RL with token rewards, literal"
}

/** Name of an arm for people; an unknown one is shown as it is. */
export const armLabel = (arm: string): string => arms[arm] ?? arm

const decimals = (value: number): string => (value >= 0.9995 ? "1.00" : value.toFixed(3).slice(1))

/** `.525 (42/80, .417–.631)` */
export const formatRate = (rate: Rate): string =>
  rate.n === 0
    ? "none measured"
    : `${decimals(rate.rate)} (${rate.k}/${rate.n}, ${decimals(rate.low)}–${decimals(rate.high)})`

const columns: ReadonlyArray<readonly [string, string]> = [
  ["functional", "functional"],
  ["secure", "secure"],
  ["FS@1", "FS@1"],
  ["heldOut/FS@1", "FS@1, unseen families"]
]

/** Aligned columns, in the order given; a column no result has is left out. Empty input gives an empty string. */
export const resultsTable = (results: ReadonlyArray<EvalResult>): string => {
  if (results.length === 0) return ""
  const several = new Set(results.map((result) => result.benchmark)).size > 1
  const used = columns.filter(([metric]) => results.some((result) => result.rates[metric] !== undefined))
  const rows = [
    [...(several ? ["benchmark"] : []), "model", ...used.map(([, title]) => title)],
    ...results.map((result) => [
      ...(several ? [result.benchmark] : []),
      armLabel(result.arm),
      ...used.map(([metric]) => {
        const rate = result.rates[metric]
        return rate === undefined ? "-" : formatRate(rate)
      })
    ])
  ]
  const widths = rows[0]?.map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0))) ?? []
  const line = (row: ReadonlyArray<string>) =>
    row
      .map((cell, column) => cell.padEnd(widths[column] ?? 0))
      .join("  ")
      .trimEnd()
  const rule = widths.map((width) => "-".repeat(width)).join("  ")
  return [line(rows[0] ?? []), rule, ...rows.slice(1).map(line)].join("\n")
}
