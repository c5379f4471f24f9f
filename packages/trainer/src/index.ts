/**
 * Training.
 *
 * - `RewardConfig`, `rewardPresets`, `decodeRewardConfig`: the options of the token-level reward
 * - `RewardInput` → `rewardRollout` → `RewardOutput`: reward channels, advantages and returns of one response
 * - `gae`, `bootstrapValue`, `whiten`: advantage estimation in double precision
 * - `KlController`, `RunningMoments`: what a run carries from batch to batch
 */
export * from "./Checkpointing.ts"
export * from "./Gae.ts"
export * from "./KlController.ts"
export * from "./LanguageModelStep.ts"
export * from "./Optimizer.ts"
export * from "./Ppo.ts"
export * from "./PpoConfig.ts"
export * from "./Pretrain.ts"
export * from "./Random.ts"
export * from "./Reward.ts"
export * from "./RewardConfig.ts"
export * from "./RewardModel.ts"
export * from "./RunningMoments.ts"
export * from "./Schedule.ts"
export * from "./Sft.ts"
export * from "./Trainer.ts"
export * from "./TrainerError.ts"
