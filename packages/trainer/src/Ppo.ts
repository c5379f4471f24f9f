/**
 * PPO with token-level rewards over one frozen trunk: the policy is the trunk with a LoRA adapter, the reference is the
 * trunk without it, the critic a scalar head on the policy's states (Schulman et al. 2017; rewards as in `Reward.ts`).
 *
 * One optimizer batch: sample → feedback → old log-probabilities and values with the trainer's own forward → reward
 * channels → GAE and whitening on the device → `epochs` passes. Log-probabilities of policy, old policy and reference are
 * all taken under the full softmax at the sampling temperature; the nucleus only limits what is sampled, and the exact
 * KL term keeps the tail outside of it in place.
 */

import { Gpu, type GpuError, type Section } from "@srcode/gpu"
import type { Decoder, Generation, Lora } from "@srcode/model"
import { Effect, type Scope } from "effect"
import { choosePass, type PassShape, type PassShapes, passShapes, unnamed } from "./Checkpointing.ts"
import { bootstrapValue } from "./Gae.ts"
import { makePacks, unusableBatch } from "./internal/ppo-batch.ts"
import { makePpoDevice } from "./internal/ppo-device.ts"
import { ppoMetrics } from "./internal/ppo-metrics.ts"
import type { PpoConfig } from "./PpoConfig.ts"
import { type RewardChannels, type RewardInput, rewardChannels, totalReward } from "./Reward.ts"
import { badInput, diverged, invariantBroken, type TrainerError } from "./TrainerError.ts"

/** What the judges of a response say: the inputs of its reward channels that do not come from the model. */
export type Feedback = Pick<RewardInput, "secureMask" | "severities" | "rewardModel">

export interface Sampled {
  readonly promptIds: ReadonlyArray<number>
  readonly generation: Generation
}

/** A response with everything its rewards were made of; arrays have one entry a response token. */
export interface ScoredResponse extends Sampled, Feedback {
  readonly logProbs: ReadonlyArray<number>
  readonly refLogProbs: ReadonlyArray<number>
  readonly values: ReadonlyArray<number>
  readonly channels: RewardChannels
}

/** Means over the last epoch of an update unless said; names as in TRL. */
export interface PpoMetrics {
  readonly [name: string]: number
}

export interface PpoTrainer {
  readonly lora: Lora
  readonly pass: PassShape
  /**
   * Scores and rewards a batch, then updates. `step` counts batches from 1 and goes on after `load`: Adam's bias
   * correction follows from it (epochs done so far), so that a reloaded run ends with the same bytes.
   */
  update(
    batch: ReadonlyArray<Sampled & Feedback>,
    step: number
  ): Effect.Effect<
    { readonly responses: ReadonlyArray<ScoredResponse>; readonly metrics: PpoMetrics },
    GpuError | TrainerError
  >
  /** Parameters (adapter, then value head [C + 1]) and both moments. */
  readonly image: Effect.Effect<
    {
      readonly params: Float32Array<ArrayBuffer>
      readonly m: Float32Array<ArrayBuffer>
      readonly v: Float32Array<ArrayBuffer>
    },
    GpuError
  >
  load(image: {
    readonly params: Float32Array<ArrayBuffer>
    readonly m: Float32Array<ArrayBuffer>
    readonly v: Float32Array<ArrayBuffer>
  }): Effect.Effect<void, GpuError>
  /** Elements of the adapter at the front of `params`. */
  readonly adapterLength: number
}

const f32 = (values: ReadonlyArray<number>): Float32Array<ArrayBuffer> => Float32Array.from(values)

/** The passes to try, in order; a response with its prompt bounds how small they may be. */
export const ppoPassShapes = (config: PpoConfig): PassShapes =>
  passShapes(config.checkpointing ?? "auto", config.capacity, Math.min(config.longest, config.capacity))

/** `pass`: the shape of a pass where a plan was made before; default: the first of `ppoPassShapes` that fits. */
export const makePpoTrainer = (
  decoder: Decoder,
  config: PpoConfig,
  initial: Float32Array<ArrayBuffer>,
  reference: Lora | null = null,
  options: { readonly pass?: PassShape; readonly section?: Section } = {}
): Effect.Effect<PpoTrainer, GpuError, Gpu | Scope.Scope> =>
  Effect.gen(function* () {
    const gpu = yield* Gpu
    const model = decoder.config
    const make = (pass: PassShape) =>
      makePpoDevice(decoder, config, pass, initial, reference, options.section ?? unnamed)
    const pass = options.pass ?? (yield* choosePass("rl", ppoPassShapes(config), make))
    const device = yield* make(pass)
    const { capacity } = pass
    const tokens = config.batchTokens
    const { flat, optimizer } = device

    const update: PpoTrainer["update"] = Effect.fnUntraced(function* (batch, step) {
      const why = unusableBatch(batch, { ...config, capacity }, decoder.rope.positions, model.vocabSize)
      if (why !== undefined) return yield* badInput(`rl: ${why}`)
      const packs = makePacks(batch, capacity, model.hiddenSize)
      const lengths = batch.map((b) => b.generation.ids.length)
      const count = lengths.reduce((a, b) => a + b, 0)
      if (count > tokens)
        return yield* invariantBroken(
          "rl",
          "planned memory fits",
          `${count} response tokens exceed the ${tokens} planned for`
        )
      const { scored, ref, values } = yield* device.scoreOld(packs, count)
      const column = (rows: Float32Array, c: number) =>
        Float32Array.from({ length: count }, (_, i) => rows[4 * i + c] ?? 0)
      const [oldLogp, refLogp] = [column(scored, 0), column(ref, 0)]
      let [klSum, entropySum] = [0, 0]
      for (let i = 0; i < count; i++) {
        entropySum += scored[4 * i + 1] ?? 0
        klSum += scored[4 * i + 3] ?? 0
      }
      if (step === 1 && Math.abs(klSum / count) > 1e-4) {
        return yield* invariantBroken(
          "rl",
          "KL = 0 at the first update",
          `the policy differs from its reference by ${(klSum / count).toExponential(2)} nats a token before training; start the adapter at zero or merge it into the reference`
        )
      }
      // Rewards on the host in f64, scans on the device.
      const offsets = Uint32Array.from({ length: batch.length + 1 }, (_, i) =>
        lengths.slice(0, i).reduce((a, b) => a + b, 0)
      )
      const responses = batch.map((b, i): ScoredResponse => {
        const [from, to] = [offsets[i] ?? 0, offsets[i + 1] ?? 0]
        const own = {
          logProbs: [...oldLogp.subarray(from, to)],
          refLogProbs: [...refLogp.subarray(from, to)],
          values: [...values.subarray(from, to)]
        }
        return {
          ...b,
          ...own,
          channels: rewardChannels(config.reward, {
            ...own,
            secureMask: b.secureMask,
            severities: b.severities,
            rewardModel: b.rewardModel,
            truncated: b.generation.truncated
          })
        }
      })
      const rewards = responses.map((r) => totalReward(r.channels))
      if (step === 1) {
        // Without the KL channel: its rounding noise alone would look like a reward.
        const sequence = responses.map(({ channels: c }) =>
          [c.positive, c.negative, c.rewardModel].flat().reduce((a, b) => a + b, 0)
        )
        if (sequence.every((r) => r === sequence[0]) && batch.length > 1) {
          return yield* invariantBroken(
            "rl",
            "reward variance > 0",
            `all ${batch.length} responses of the first batch earn ${sequence[0]}; the reward cannot teach anything`
          )
        }
      }
      const interleaved = (_: unknown, i: number) => (i % 2 === 0 ? oldLogp[i >> 1] : values[i >> 1]) ?? 0
      yield* device.advantages({
        rewards: f32(rewards.flat()),
        offsets,
        bootstrap: f32(
          responses.map((r) => bootstrapValue(r.values, r.generation.truncated, config.reward.bootstrapTruncated))
        ),
        oldPairs: Float32Array.from({ length: 2 * count }, interleaved)
      })
      for (let epoch = 0; epoch < config.epochs; epoch++)
        yield* device.epoch(packs, count, epoch, (step - 1) * config.epochs + epoch + 1)
      const { epochs, returns } = yield* device.readRecord(count)
      // A gradient that was not finite has changed nothing.
      if (epochs.some(({ sums, clip }) => (clip[2] ?? 0) > 0.5 || sums.some((x) => !Number.isFinite(x))))
        return yield* diverged("rl", step)
      const ratio = epochs[0]?.sums[6] ?? 1
      if (step === 1 && Math.abs(ratio - 1) > 1e-4) {
        return yield* invariantBroken(
          "rl",
          "ratio = 1 at the first update",
          `the mean ratio is ${ratio}: two passes of one policy disagree; run srcode doctor`
        )
      }
      const { sums: last, clip } = epochs.at(-1) ?? { sums: new Float32Array(8), clip: new Float32Array(3) }
      const metrics = ppoMetrics({
        config,
        step,
        responses,
        kl: klSum,
        entropy: entropySum,
        values,
        returns,
        last,
        gradNorm: clip[1] ?? 0
      })
      return { responses, metrics }
    })
    return {
      lora: device.lora,
      pass,
      update,
      adapterLength: device.adapterLength,
      image: Effect.gen(function* () {
        return { params: yield* gpu.read(flat), m: yield* gpu.read(optimizer.m), v: yield* gpu.read(optimizer.v) }
      }),
      load: Effect.fnUntraced(function* (image) {
        yield* gpu.write(flat, image.params)
        yield* gpu.write(optimizer.m, image.m)
        yield* gpu.write(optimizer.v, image.v)
      })
    }
  })
