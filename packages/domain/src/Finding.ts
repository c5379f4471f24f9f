/**
 * What analyzers say. Three states, never two: a file that did not parse gives zero alerts in nearly every tool, and
 * treating that as clean is the first reward hack a policy finds.
 */
import { Schema } from "effect"
import { CweId } from "./Cwe.ts"
import { Severity } from "./Severity.ts"

export const Finding = Schema.Struct({
  tool: Schema.String,
  ruleId: Schema.String,
  cwes: Schema.Array(CweId),
  severity: Severity,
  message: Schema.String,
  /** First line of the location, 1-based; null when the tool gives none. */
  line: Schema.NullOr(Schema.Int),
  /** 0-based UTF-16 column in that line; null when the tool gives none. */
  column: Schema.NullOr(Schema.Int)
})
export type Finding = typeof Finding.Type

/** The answer for one snippet. `notAnalysed` is never a pass and never a fault: it is the absence of a signal. */
export const Analysis = Schema.TaggedUnion({
  Alerts: { snippetId: Schema.String, findings: Schema.Array(Finding), tools: Schema.Array(Schema.String) },
  Clean: { snippetId: Schema.String, tools: Schema.Array(Schema.String) },
  NotAnalysed: { snippetId: Schema.String, reason: Schema.String }
})
export type Analysis = typeof Analysis.Type
