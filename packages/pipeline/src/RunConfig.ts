/** The experiment file of `run`: every setting of the pipeline with its default; unknown keys are refused. */
import { CurriculumOrder } from "@srcode/domain"
import { dtypeChoices, tinyCoderDirectory } from "@srcode/model"
import { PpoSettings, RewardPreset, SftConfig } from "@srcode/trainer"
import { Effect, Schema } from "effect"

const Count = Schema.Int.check(Schema.isGreaterThan(0))
const Positive = Schema.Finite.check(Schema.isGreaterThan(0))
const withDefault = <S extends Schema.Top>(schema: S, value: S["Encoded"]) =>
  schema.pipe(Schema.withDecodingDefault(Effect.succeed(value)))

export const EvaluationConfig = Schema.Struct({
  temperature: withDefault(Schema.Finite.check(Schema.isGreaterThanOrEqualTo(0)), 0.8),
  topP: withDefault(Schema.Finite.check(Schema.isBetween({ minimum: 0.01, maximum: 1 })), 0.95),
  maxTokens: withDefault(Count, 112),
  /** Prompts of the embedded benchmark; null takes all 232. */
  limit: withDefault(Schema.NullOr(Count), null),
  /** Prompts of the run's own data that are generated and analysed (only with `data`). */
  analysed: withDefault(Schema.Int.check(Schema.isGreaterThanOrEqualTo(0)), 16)
})
export type EvaluationConfig = typeof EvaluationConfig.Type

export const RewardModelSettings = Schema.Struct({
  steps: withDefault(Count, 50),
  batchSize: withDefault(Count, 14),
  lr: withDefault(Positive, 3e-3),
  rank: withDefault(Count, 8),
  alpha: withDefault(Positive, 16),
  clip: withDefault(Positive, 1)
})
export type RewardModelSettings = typeof RewardModelSettings.Type

/** PPO for a model of half a million parameters and a reward model of 70–80 % accuracy: larger steps than for real checkpoints. */
export const embeddedPpo = { steps: 16, epochs: 4, lr: 8e-4, valueLr: 4e-3 } as const

export const RunConfig = Schema.Struct({
  /** A Hugging Face folder; default: the embedded tiny-coder. */
  model: withDefault(Schema.NonEmptyString, tinyCoderDirectory),
  /** How its weights are held on the device. */
  dtype: withDefault(Schema.Literals(dtypeChoices), "auto" as const),
  seed: withDefault(Schema.Int, 1),
  /** PrimeVul JSONL; null builds the embedded corpus's tasks. */
  data: withDefault(Schema.NullOr(Schema.NonEmptyString), null),
  /** Rows of `data` to take; null takes all. */
  limit: withDefault(Schema.NullOr(Count), null),
  order: withDefault(CurriculumOrder, "shuffledWithinKind" as const),
  /** Rows of the embedded corpus for SFT. */
  sftRows: withDefault(Count, 400),
  sft: withDefault(SftConfig, { steps: 50, lr: 2e-3, schedule: "linear", batchSize: 16, accumulation: 1 } as const),
  rewardModel: withDefault(RewardModelSettings, {}),
  rl: withDefault(PpoSettings, embeddedPpo),
  /** Reinforcement arms, each a preset of token rewards; `none` is the sequence reward alone. */
  arms: withDefault(Schema.Array(RewardPreset), ["none", "gated"] as const),
  evaluation: withDefault(EvaluationConfig, {})
})
export type RunConfig = typeof RunConfig.Type

export const decodeRunConfig = Schema.decodeUnknownEffect(RunConfig, { onExcessProperty: "error", errors: "all" })

/** Settings for slow drivers: the same pipeline, every stage smaller. */
export const quickRun = {
  sftRows: 240,
  sft: { steps: 20, lr: 3e-3, schedule: "linear", batchSize: 8, accumulation: 1 },
  rewardModel: { steps: 12, batchSize: 6 },
  rl: { ...embeddedPpo, steps: 6, epochs: 2, batchSize: 12, maxTokens: 72 },
  evaluation: { limit: 48, maxTokens: 80 }
} as const
