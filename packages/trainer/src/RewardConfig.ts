/**
 * How a rollout is turned into rewards: the options of the token-level reward, with defaults and named presets.
 *
 * Unusual: an unknown key is refused (`decodeRewardConfig`), because a misspelt option that silently falls back to its
 * default changes an experiment without a trace.
 */
import { Effect, Schema } from "effect"

const NonNegative = Schema.Finite.check(Schema.isGreaterThanOrEqualTo(0))
const UnitInterval = Schema.Finite.check(Schema.isBetween({ minimum: 0, maximum: 1 }))
const Count = Schema.Int.check(Schema.isGreaterThanOrEqualTo(0))

/** How the penalty β of a vulnerable response is laid over its tokens: −β on each, −β/T on each, −β on the last. */
export const Spread = Schema.Literals(["perToken", "meanSpread", "terminal"])
export type Spread = typeof Spread.Type

/** Whether secure spans earn always (`none`) or only when the verdict is secure (`secureOnly`). */
export const Gate = Schema.Literals(["none", "secureOnly"])
export type Gate = typeof Gate.Type

/** Penalty per finding, in units of reward. */
export const SeverityWeights = Schema.Struct({
  low: NonNegative.pipe(Schema.withDecodingDefault(Effect.succeed(0.03))),
  medium: NonNegative.pipe(Schema.withDecodingDefault(Effect.succeed(0.06))),
  high: NonNegative.pipe(Schema.withDecodingDefault(Effect.succeed(0.1))),
  critical: NonNegative.pipe(Schema.withDecodingDefault(Effect.succeed(0.2)))
})

/** `fixed` puts −coef·(log π − log π_ref) on every token; `none` leaves that channel zero. */
export const KlPenalty = Schema.Struct({
  kind: Schema.Literals(["none", "fixed"]),
  coef: NonNegative.pipe(Schema.withDecodingDefault(Effect.succeed(0)))
})

export const RewardConfig = Schema.Struct({
  /** Reward of a token in a secure span, before the cap. */
  alpha: NonNegative.pipe(Schema.withDecodingDefault(Effect.succeed(0.2))),
  /** Ceiling of the penalty β, whatever the findings add up to. */
  betaMax: NonNegative.pipe(Schema.withDecodingDefault(Effect.succeed(0.2))),
  severityWeights: SeverityWeights.pipe(Schema.withDecodingDefault(Effect.succeed({}))),
  spread: Spread.pipe(Schema.withDecodingDefault(Effect.succeed("meanSpread" as const))),
  gate: Gate.pipe(Schema.withDecodingDefault(Effect.succeed("secureOnly" as const))),
  /** Only so many tokens of a response earn, the first ones; null = all of them. */
  maxRewardedTokens: Schema.NullOr(Count).pipe(Schema.withDecodingDefault(Effect.succeed(32))),
  /** Ceiling of the positive channel's sum over a response; null = no ceiling. */
  maxPositive: Schema.NullOr(NonNegative).pipe(Schema.withDecodingDefault(Effect.succeed(1))),
  kl: KlPenalty.pipe(Schema.withDecodingDefault(Effect.succeed({ kind: "fixed", coef: 0.2 } as const))),
  gamma: UnitInterval.pipe(Schema.withDecodingDefault(Effect.succeed(1))),
  lambda: UnitInterval.pipe(Schema.withDecodingDefault(Effect.succeed(0.95))),
  /** Whether a response cut off by length is followed by its last state's value instead of 0. */
  bootstrapTruncated: Schema.Boolean.pipe(Schema.withDecodingDefault(Effect.succeed(false)))
})
export type RewardConfig = typeof RewardConfig.Type

const decode = Schema.decodeUnknownEffect(RewardConfig, { onExcessProperty: "error", errors: "all" })

/** Reads a configuration from JSON; missing keys take their defaults, unknown keys fail. */
export const decodeRewardConfig = (input: unknown) => decode(input)

/** The defaults: gated by the verdict, capped, penalty spread over the response. */
export const defaultRewardConfig: RewardConfig = {
  alpha: 0.2,
  betaMax: 0.2,
  severityWeights: { low: 0.03, medium: 0.06, high: 0.1, critical: 0.2 },
  spread: "meanSpread",
  gate: "secureOnly",
  maxRewardedTokens: 32,
  maxPositive: 1,
  kl: { kind: "fixed", coef: 0.2 },
  gamma: 1,
  lambda: 0.95,
  bootstrapTruncated: false
}

export const RewardPreset = Schema.Literals(["gated", "naive", "literal", "none"])
export type RewardPreset = typeof RewardPreset.Type

const ungated = { gate: "none", maxRewardedTokens: null, maxPositive: null } as const

/**
 * - `gated`: the default. A span earns only in a response judged secure, and all spans together at most `maxPositive`.
 * - `naive`: every span earns, without limit. The cautionary tale: a policy learns to repeat guards.
 * - `literal`: as `naive`, with the full penalty on every token of a vulnerable response, as published.
 * - `none`: no token rewards; the sequence reward and the KL penalty are left.
 */
export const rewardPresets: Readonly<Record<RewardPreset, RewardConfig>> = {
  gated: defaultRewardConfig,
  naive: { ...defaultRewardConfig, ...ungated },
  literal: { ...defaultRewardConfig, ...ungated, spread: "perToken" },
  none: { ...defaultRewardConfig, alpha: 0, betaMax: 0 }
}
