/** A judgement over a whole response. `vulnerable: null` is "no signal": the sample is masked, never punished. */
import { Schema } from "effect"
import { CweId } from "./Cwe.ts"
import { Severity } from "./Severity.ts"

export const Verdict = Schema.Struct({
  vulnerable: Schema.NullOr(Schema.Boolean),
  cwes: Schema.Array(CweId),
  /** One per finding; empty when secure or when there is no signal. */
  severities: Schema.Array(Severity),
  reason: Schema.String
})
export type Verdict = typeof Verdict.Type

export const noSignal = (reason: string): Verdict => ({ vulnerable: null, cwes: [], severities: [], reason })
