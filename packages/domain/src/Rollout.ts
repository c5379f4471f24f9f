/**
 * One sampled response with everything PPO needs, T response tokens long. Every reward channel stays separate until
 * the advantage is formed, so a log line can always say which channel moved.
 */
import { Schema } from "effect"
import { Severity } from "./Severity.ts"
import { Span } from "./Span.ts"

export const Rollout = Schema.Struct({
  id: Schema.String,
  step: Schema.Int,
  taskId: Schema.String,
  prompt: Schema.String,
  response: Schema.String,
  promptIds: Schema.Array(Schema.Int),
  responseIds: Schema.Array(Schema.Int),
  /** True when the response ended by length, not by the end token. */
  truncated: Schema.Boolean,
  logProbs: Schema.Array(Schema.Finite),
  refLogProbs: Schema.Array(Schema.Finite),
  values: Schema.Array(Schema.Finite),
  secureMask: Schema.Array(Schema.Boolean),
  spans: Schema.Array(Span),
  /** One per finding; empty = secure; null = no signal. */
  severities: Schema.NullOr(Schema.Array(Severity)),
  rewardModel: Schema.Finite,
  channels: Schema.Struct({
    positive: Schema.Array(Schema.Finite),
    negative: Schema.Array(Schema.Finite),
    rewardModel: Schema.Array(Schema.Finite),
    kl: Schema.Array(Schema.Finite)
  })
})
export type Rollout = typeof Rollout.Type
