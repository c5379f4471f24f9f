/** What stops a training run, with the reason and what to do about it. */
import { Schema } from "effect"

/** A loss or a gradient stopped being finite. The weights are those of the last good step. */
export class Diverged extends Schema.TaggedError<Diverged>()("Diverged", { stage: Schema.String, step: Schema.Int }) {}

/** A start-up check failed: going on would train something other than what was asked for. */
export class InvariantBroken extends Schema.TaggedError<InvariantBroken>()("InvariantBroken", {
  stage: Schema.String,
  invariant: Schema.String,
  detail: Schema.String
}) {}

/** Training data or a setting that cannot be used. */
export class BadInput extends Schema.TaggedError<BadInput>()("BadInput", { detail: Schema.String }) {}

export class TrainerError extends Schema.TaggedError<TrainerError>()("TrainerError", {
  reason: Schema.Union([Diverged, InvariantBroken, BadInput])
}) {
  override get message(): string {
    const r = this.reason
    if (r._tag === "Diverged") {
      return `${r.stage}: the gradient is not finite at step ${r.step}; lower the learning rate or check the data (weights of the last good step are kept)`
    }
    if (r._tag === "InvariantBroken") return `${r.stage}: ${r.invariant} does not hold: ${r.detail}`
    return r.detail
  }
}

export const diverged = (stage: string, step: number) => new TrainerError({ reason: new Diverged({ stage, step }) })
export const invariantBroken = (stage: string, invariant: string, detail: string) =>
  new TrainerError({ reason: new InvariantBroken({ stage, invariant, detail }) })
export const badInput = (detail: string) => new TrainerError({ reason: new BadInput({ detail }) })
