/** Measured rates. Every one carries k/N and a Wilson interval; a crash or a missing answer stays in the denominator. */
import { Schema } from "effect"

export const Rate = Schema.Struct({
  k: Schema.Int,
  n: Schema.Int,
  rate: Schema.Finite,
  /** Wilson score interval, 95 %. */
  low: Schema.Finite,
  high: Schema.Finite
})
export type Rate = typeof Rate.Type

/** How one generated sample fared under a benchmark's tests. */
export const SampleOutcome = Schema.Struct({
  taskId: Schema.String,
  group: Schema.String,
  prompt: Schema.String,
  response: Schema.String,
  compiles: Schema.Boolean,
  functional: Schema.Boolean,
  secure: Schema.Boolean,
  /** One line on what failed; empty when nothing did. */
  detail: Schema.String
})
export type SampleOutcome = typeof SampleOutcome.Type

export const EvalResult = Schema.Struct({
  benchmark: Schema.String,
  /** Which model was measured: `base`, `sft`, `rl-none`, `rl-gated`, … */
  arm: Schema.String,
  seeds: Schema.Array(Schema.Int),
  sampling: Schema.Struct({ temperature: Schema.Finite, topP: Schema.Finite }),
  /** By metric name: `compiles`, `functional`, `secure`, `FS@1`, and `heldOut/FS@1` for families no training saw. */
  rates: Schema.Record(Schema.String, Rate)
})
export type EvalResult = typeof EvalResult.Type
