/**
 * The reward of a response, token by token: pure functions, no I/O, double precision.
 *
 * For response tokens t = 0 … T−1 there are four channels, each of length T and kept apart to the end, so that a log
 * line can always say which of them moved:
 *   positive     α·c on tokens of secure spans,  c = min(1, maxPositive / (α·n)) over the n tokens that earn
 *   negative     β = min(betaMax, Σ w(severity)) of a vulnerable response, laid over its tokens by `spread`
 *   rewardModel  the sequence reward, on the last token
 *   kl           −κ·(log π − log π_ref)
 * The reward is their sum. Without a verdict (`severities: null`) both teacher channels are zero: a missing answer is no
 * signal and never a penalty.
 */
import { Severity } from "@srcode/domain"
import { Schema } from "effect"
import { bootstrapValue, gae } from "./Gae.ts"
import type { RewardConfig } from "./RewardConfig.ts"

const Numbers = Schema.Array(Schema.Finite)

/** What a reward is computed from. The four arrays have one entry per response token, at least one. */
export const RewardInput = Schema.Struct({
  logProbs: Numbers,
  refLogProbs: Numbers,
  /** `values[t]` = V(s_t), the critic's value before token t. */
  values: Numbers,
  /** Whether a token overlaps a secure span. */
  secureMask: Schema.Array(Schema.Boolean),
  /** One per finding; empty = not vulnerable; null = no signal. */
  severities: Schema.NullOr(Schema.Array(Severity)),
  /** The sequence reward, already normalised. */
  rewardModel: Schema.Finite,
  /** True when the response was cut off by length. */
  truncated: Schema.Boolean
}).check(
  Schema.makeFilter((input) => {
    const length = input.logProbs.length
    if (length === 0) return "expected at least one response token in logProbs"
    for (const key of ["refLogProbs", "values", "secureMask"] as const) {
      if (input[key].length !== length) {
        return `expected ${key} to have ${length} entries like logProbs, got ${input[key].length}`
      }
    }
    return undefined
  })
)
export type RewardInput = typeof RewardInput.Type

export const RewardChannels = Schema.Struct({
  positive: Numbers,
  negative: Numbers,
  rewardModel: Numbers,
  kl: Numbers
})
export type RewardChannels = typeof RewardChannels.Type

export const RewardOutput = Schema.Struct({
  reward: Numbers,
  advantages: Numbers,
  returns: Numbers,
  channels: RewardChannels
})
export type RewardOutput = typeof RewardOutput.Type

type Severities = RewardInput["severities"]

/** β, the penalty of a whole response: 0 without findings or without a signal. */
export const penalty = (config: Pick<RewardConfig, "betaMax" | "severityWeights">, severities: Severities): number => {
  const sum = (severities ?? []).reduce((total, severity) => total + config.severityWeights[severity], 0)
  return Math.min(config.betaMax, sum)
}

/** What each token of a secure span earns: only the first `maxRewardedTokens` do, then the cap scales them. */
export const positiveChannel = (
  config: Pick<RewardConfig, "alpha" | "gate" | "maxRewardedTokens" | "maxPositive">,
  secureMask: ReadonlyArray<boolean>,
  severities: Severities
): ReadonlyArray<number> => {
  const open = severities !== null && (config.gate === "none" || severities.length === 0)
  const limit = open ? (config.maxRewardedTokens ?? secureMask.length) : 0
  let earning = 0
  const earns = secureMask.map((secure) => secure && earning < limit && ++earning > 0)
  const uncapped = config.alpha * earning
  const scale = config.maxPositive === null || uncapped <= config.maxPositive ? 1 : config.maxPositive / uncapped
  return earns.map((yes) => (yes ? config.alpha * scale : 0))
}

/** The penalty laid over T tokens. */
export const negativeChannel = (
  config: Pick<RewardConfig, "betaMax" | "severityWeights" | "spread">,
  length: number,
  severities: Severities
): ReadonlyArray<number> => {
  const beta = penalty(config, severities)
  if (beta === 0) return new Array<number>(length).fill(0)
  switch (config.spread) {
    case "perToken":
      return new Array<number>(length).fill(-beta)
    case "meanSpread":
      return new Array<number>(length).fill(-beta / length)
    case "terminal":
      return new Array<number>(length).fill(0).with(-1, -beta)
  }
}

/** The sampled KL penalty per token; can be positive where the policy is less likely than the reference. */
export const klChannel = (
  kl: RewardConfig["kl"],
  logProbs: ReadonlyArray<number>,
  refLogProbs: ReadonlyArray<number>
): ReadonlyArray<number> =>
  logProbs.map((logProb, t) => (kl.kind === "none" ? 0 : -kl.coef * (logProb - refLogProbs[t]!)))

/** All four channels of a response. */
export const rewardChannels = (config: RewardConfig, input: RewardInput): RewardChannels => {
  const length = input.logProbs.length
  return {
    positive: positiveChannel(config, input.secureMask, input.severities),
    negative: negativeChannel(config, length, input.severities),
    rewardModel: new Array<number>(length).fill(0).with(-1, input.rewardModel),
    kl: klChannel(config.kl, input.logProbs, input.refLogProbs)
  }
}

/** The sum of the channels, token by token. */
export const totalReward = (channels: RewardChannels): ReadonlyArray<number> =>
  channels.positive.map((positive, t) => positive + channels.negative[t]! + channels.rewardModel[t]! + channels.kl[t]!)

/** Rewards, advantages and returns (both before whitening) of one response. */
export const rewardRollout = (config: RewardConfig, input: RewardInput): RewardOutput => {
  const channels = rewardChannels(config, input)
  const reward = totalReward(channels)
  const lastValue = bootstrapValue(input.values, input.truncated, config.bootstrapTruncated)
  return { reward, ...gae(reward, input.values, { gamma: config.gamma, lambda: config.lambda, lastValue }), channels }
}
