/** The settings of PPO, with the defaults of the method; decoded from JSON with every unknown key refused. */

import type { PpoLossParams } from "@srcode/gpu"
import { Effect, Schema } from "effect"
import { CheckpointingChoice } from "./Checkpointing.ts"
import { RewardConfig, RewardPreset, rewardPresets } from "./RewardConfig.ts"

const NonNegative = Schema.Finite.check(Schema.isGreaterThanOrEqualTo(0))
const Positive = Schema.Finite.check(Schema.isGreaterThan(0))
const Count = Schema.Int.check(Schema.isGreaterThan(0))
const Beta = Schema.Finite.check(Schema.isBetween({ minimum: 0, maximum: 0.999_999_9 }))
const withDefault = <S extends Schema.Top>(schema: S, value: S["Encoded"]) =>
  schema.pipe(Schema.withDecodingDefault(Effect.succeed(value)))

export const PpoSettings = Schema.Struct({
  /** Rollout batches. */
  steps: withDefault(Count, 20),
  /** Prompts a rollout batch. */
  batchSize: withDefault(Schema.Int.check(Schema.isGreaterThan(1)), 32),
  /** Passes over a rollout batch. */
  epochs: withDefault(Count, 4),
  lr: withDefault(Positive, 5e-4),
  valueLr: withDefault(Positive, 2.5e-3),
  betas: withDefault(Schema.Tuple([Beta, Beta]), [0.9, 0.99] as const),
  eps: withDefault(Positive, 1e-8),
  weightDecay: withDefault(NonNegative, 0),
  /** Largest gradient norm. */
  clipNorm: withDefault(NonNegative, 1),
  rank: withDefault(Count, 8),
  alpha: withDefault(Positive, 16),
  temperature: withDefault(Positive, 1),
  topP: withDefault(Schema.Finite.check(Schema.isBetween({ minimum: 0.01, maximum: 1 })), 0.9),
  /** Most tokens of a response. */
  maxTokens: withDefault(Count, 96),
  /** How the ratio is limited, and by how much: ε low and high. */
  policyLoss: withDefault(Schema.Literals(["clip", "dualClip", "cispo", "sapo"]), "clip" as const),
  clipLow: withDefault(NonNegative, 0.2),
  clipHigh: withDefault(NonNegative, 0.2),
  dualClip: withDefault(Positive, 3),
  tauPositive: withDefault(Positive, 1),
  tauNegative: withDefault(Positive, 1.05),
  valueClip: withDefault(NonNegative, 0.2),
  valueCoef: withDefault(NonNegative, 0.1),
  entropyCoef: withDefault(NonNegative, 0),
  /** Weight of the exact KL(policy ‖ reference) in the loss; 0 turns it off. */
  klCoef: withDefault(NonNegative, 0.3),
  /** A preset of token rewards, and options that replace parts of it. */
  preset: withDefault(RewardPreset, "gated" as const),
  reward: Schema.optionalKey(RewardConfig),
  seed: withDefault(Schema.Int, 1),
  saveEvery: withDefault(Count, 5),
  /** What a pass keeps for backward (default auto: as much as fits). Changes time and memory, never the result. */
  checkpointing: Schema.optionalKey(CheckpointingChoice)
})
export type PpoSettings = typeof PpoSettings.Type

export const decodePpoSettings = Schema.decodeUnknownEffect(PpoSettings, { onExcessProperty: "error", errors: "all" })

/** Settings made complete for one model and data set. */
export interface PpoConfig extends Omit<PpoSettings, "reward"> {
  readonly reward: RewardConfig
  readonly loss: PpoLossParams
  /** Tokens of one training pass, and of the longest prompt with its response. */
  readonly capacity: number
  readonly longest: number
  /** Response tokens of a whole rollout batch. */
  readonly batchTokens: number
}

/**
 * `longestPrompt` in tokens. With the exact KL in the loss the sampled KL penalty in the reward is off unless the
 * settings give a reward of their own: two anchors at once would count the same divergence twice.
 */
export const completePpo = (settings: PpoSettings, longestPrompt: number): PpoConfig => {
  const { reward, ...rest } = settings
  const preset = rewardPresets[settings.preset]
  const longest = longestPrompt + settings.maxTokens
  return {
    ...rest,
    reward: reward ?? { ...preset, kl: settings.klCoef > 0 ? { kind: "none", coef: 0 } : preset.kl },
    loss: {
      kind: settings.policyLoss,
      clipLow: settings.clipLow,
      clipHigh: settings.clipHigh,
      valueClip: settings.valueClip,
      valueCoef: settings.valueCoef,
      entropyCoef: settings.entropyCoef,
      klCoef: settings.klCoef,
      dualClip: settings.dualClip,
      tauPositive: settings.tauPositive,
      tauNegative: settings.tauNegative
    },
    capacity: Math.max(longest, Math.min(longest * settings.batchSize, 4096)),
    longest,
    batchTokens: settings.batchSize * settings.maxTokens
  }
}
