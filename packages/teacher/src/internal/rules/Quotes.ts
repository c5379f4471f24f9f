/** Constructs of a scan → spans of the response: outermost only, each idiom once, exact quotes with their occurrence. */
import { cwe, type Span } from "@srcode/domain"
import type { Construct } from "./Walk.ts"

/** More of one label than this is stuffing, however it is phrased. */
const mostOfOneLabel = 3

export const spansOf = (
  constructs: ReadonlyArray<Construct>,
  source: string,
  promptLength: number
): ReadonlyArray<Span> => {
  const response = source.slice(promptLength)
  const inside = constructs
    .filter((c) => c.start >= promptLength && c.end <= source.length)
    .sort((a, b) => a.start - b.start || b.end - a.end)
  const shapes = new Set<string>()
  const labels = new Map<string, number>()
  const spans: Array<Span> = []
  let reached = promptLength
  for (const construct of inside) {
    if (construct.end <= reached) continue
    const quote = source.slice(construct.start, construct.end)
    const shape = shapeOf(quote)
    const used = labels.get(construct.label) ?? 0
    if (shapes.has(shape) || used >= mostOfOneLabel) continue
    shapes.add(shape)
    labels.set(construct.label, used + 1)
    reached = construct.end
    spans.push({
      quote,
      occurrence: occurrenceOf(response, quote, construct.start - promptLength),
      label: construct.label,
      cwe: cwe(construct.cwe),
      why: construct.why
    })
  }
  return spans
}

/** Two guards that differ in blanks, constants and error values only are one idiom. */
const shapeOf = (quote: string): string =>
  quote
    .replace(/"(?:\\.|[^"\\])*"/g, '""')
    .replace(/\b\d+\b/g, "0")
    .replace(/\s+/g, "")

const occurrenceOf = (text: string, quote: string, at: number): number => {
  let n = 0
  for (let found = text.indexOf(quote); found >= 0 && found < at; found = text.indexOf(quote, found + 1)) n += 1
  return n
}
