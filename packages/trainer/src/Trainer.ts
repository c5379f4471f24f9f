/**
 * Training as a service over the compute device: supervised tuning, reward model, PPO, and pretraining. The layer closes
 * over `Gpu`; programs say what to train, never where.
 */

import { Gpu, type GpuError } from "@srcode/gpu"
import type { Decoder, Lora, ModelError } from "@srcode/model"
import { Context, Effect, type FileSystem, Layer, type Schema, type Scope } from "effect"
import type { PassShape } from "./Checkpointing.ts"
import { makePpoTrainer, type PpoTrainer } from "./Ppo.ts"
import type { PpoConfig } from "./PpoConfig.ts"
import { type PretrainInput, pretrain } from "./Pretrain.ts"
import { makeRewardModel, type RewardModel, type RewardModelConfig } from "./RewardModel.ts"
import { type SftInput, trainSft } from "./Sft.ts"
import type { TrainerError } from "./TrainerError.ts"

type TrainingError = GpuError | ModelError | TrainerError | Schema.SchemaError

export class Trainer extends Context.Service<
  Trainer,
  {
    /** Tunes an adapter in place; resumes from `stateDirectory`. */
    sft<E, R>(input: SftInput<E, R>): Effect.Effect<void, E | TrainingError, R | FileSystem.FileSystem>
    /** A reward model over a frozen trunk; lives in the caller's Scope. */
    rewardModel(decoder: Decoder, config: RewardModelConfig): Effect.Effect<RewardModel, GpuError, Scope.Scope>
    /**
     * A PPO trainer over a frozen trunk, its adapter starting from `initial`; lives in the caller's Scope. The reference
     * policy is the trunk with `reference`, or the trunk alone. `pass` where memory was planned before.
     */
    ppo(
      decoder: Decoder,
      config: PpoConfig,
      initial: Float32Array<ArrayBuffer>,
      reference?: Lora | null,
      pass?: PassShape
    ): Effect.Effect<PpoTrainer, GpuError, Scope.Scope>
    /** Trains all parameters of a small model from scratch and writes its folder. */
    pretrain(input: PretrainInput): Effect.Effect<void, TrainingError, FileSystem.FileSystem>
  }
>()("@srcode/trainer/Trainer") {
  static readonly layer = Layer.effect(
    Trainer,
    Effect.gen(function* () {
      const gpu = yield* Gpu
      const on = Effect.provideService(Gpu, gpu)
      return Trainer.of({
        sft: (input) => trainSft(input).pipe(on),
        rewardModel: (decoder, config) => makeRewardModel(decoder, config).pipe(on),
        ppo: (decoder, config, initial, reference, pass) =>
          makePpoTrainer(decoder, config, initial, reference, pass === undefined ? {} : { pass }).pipe(on),
        pretrain: (input) => pretrain(input).pipe(on)
      })
    })
  )
}
