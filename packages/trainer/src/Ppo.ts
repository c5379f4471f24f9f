/**
 * PPO with token-level rewards over one frozen trunk: the policy is the trunk with a LoRA adapter, the reference is the
 * trunk without it, the critic a scalar head on the policy's states (Schulman et al. 2017; rewards as in `Reward.ts`).
 *
 * One optimizer batch: sample → feedback → old log-probabilities and values with the trainer's own forward → reward
 * channels → GAE and whitening on the device → `epochs` passes. Log-probabilities of policy, old policy and reference are
 * all taken under the full softmax at the sampling temperature; the nucleus only limits what is sampled, and the exact
 * KL term keeps the tail outside of it in place.
 */

import { Gpu, type GpuError, makeOps, type Tape, type Tensor, window } from "@srcode/gpu"
import {
  allocBatch,
  allocHead,
  allocWorkspace,
  type Batch,
  backward,
  type Decoder,
  forward,
  type Generation,
  type Lora,
  loraLength,
  loraScale,
  loraWindows,
  type PackedIndices,
  scatterSelected,
  scoreReference,
  scoreRows,
  scoreRowsBackward,
  selectRows,
  uploadBatch
} from "@srcode/model"
import { Effect, type Scope } from "effect"
import { bootstrapValue } from "./Gae.ts"
import { makePacks, type PpoPack, unusableBatch } from "./internal/ppo-batch.ts"
import { ppoMetrics } from "./internal/ppo-metrics.ts"
import { allocOptimizer, measureGradient } from "./Optimizer.ts"
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

export const makePpoTrainer = (
  decoder: Decoder,
  config: PpoConfig,
  initial: Float32Array<ArrayBuffer>,
  reference: Lora | null = null
): Effect.Effect<PpoTrainer, GpuError, Gpu | Scope.Scope> =>
  Effect.gen(function* () {
    const gpu = yield* Gpu
    const ops = makeOps(gpu.info)
    const model = decoder.config
    const C = model.hiddenSize
    const { capacity } = config
    const adapterLength = loraLength(model, config.rank)
    const flat = yield* gpu.alloc("ppo.params", "f32", adapterLength + C + 1)
    const start = new Float32Array(flat.length)
    start.set(initial.subarray(0, adapterLength))
    yield* gpu.write(flat, start)
    const head = window(flat, adapterLength, C + 1, "value_head")
    const lora: Lora = {
      rank: config.rank,
      alpha: config.alpha,
      scale: loraScale(config.rank, config.alpha, false),
      params: loraWindows(model, config.rank, flat)
    }
    const optimizer = yield* allocOptimizer("ppo", flat)
    const grads = loraWindows(model, config.rank, optimizer.grads)
    const dHead = window(optimizer.grads, adapterLength, C + 1, "d_value_head")
    const ws = yield* allocWorkspace(model, { capacity, save: true, rank: Math.max(config.rank, reference?.rank ?? 0) })
    const hw = yield* allocHead(model, { capacity, reference: true })
    const buffers = yield* allocBatch(capacity)
    const alloc = (label: string, length: number) => gpu.alloc(`ppo.${label}`, "f32", length)
    const tokens = config.batchTokens
    const [reward, value, advantage, returns, white] = [
      yield* alloc("reward", tokens),
      yield* alloc("value", tokens),
      yield* alloc("advantage", tokens),
      yield* alloc("returns", tokens),
      yield* alloc("whitened", tokens)
    ]
    const mask = yield* gpu.alloc("ppo.mask", "u32", tokens)
    const first = yield* gpu.alloc("ppo.first", "u32", config.batchSize + 1)
    const bootstrap = yield* alloc("bootstrap", config.batchSize)
    const refStates = yield* alloc("ref_states", (tokens + 64 * config.batchSize) * C)
    const [packAdvantage, packReturns, old, packValue, dValue, metric] = [
      yield* alloc("pack_advantage", capacity),
      yield* alloc("pack_returns", capacity),
      yield* alloc("old", 2 * capacity),
      yield* alloc("pack_value", capacity),
      yield* alloc("d_value", capacity),
      yield* alloc("metric", 8 * capacity)
    ]
    const sums = yield* alloc("sums", 8)

    const upload = (packed: PackedIndices) => uploadBatch(buffers, packed).pipe(Effect.provideService(Gpu, gpu))
    const refOf = (pack: PpoPack): Tensor<"f32"> =>
      window(refStates, pack.refAt, pack.packed.lossRow.length * C, "ref_states")

    /** Records states, values and scores of the policy for one pack. */
    const policyPass = (tape: Tape, batch: Batch, into: Tensor<"f32">): void => {
      forward(tape, ops, decoder, lora, batch, ws)
      selectRows(tape, ops, model, batch, ws.hidden, hw.selected)
      ops.valueHead(tape, { h: hw.selected, w: head, value: into, rows: batch.lossRows, dim: C })
    }

    const oldPass = Effect.fnUntraced(function* (pack: PpoPack) {
      const batch = yield* upload(pack.packed)
      const refSelected = hw.refSelected
      const refScored = hw.refScored
      if (refSelected === null || refScored === null)
        return { scored: new Float32Array(0), ref: new Float32Array(0), values: new Float32Array(0) }
      yield* gpu.submit("ppo old and reference", (tape) => {
        forward(tape, ops, decoder, reference, batch, ws)
        selectRows(tape, ops, model, batch, ws.hidden, refSelected)
        tape.copy(refSelected, refOf(pack), batch.lossRows * C)
        scoreReference(tape, ops, model, decoder.weights.head, batch, hw, config.temperature)
        policyPass(tape, batch, packValue)
        scoreRows(tape, ops, model, decoder.weights.head, batch, hw, config.temperature, true)
      })
      const rows = batch.lossRows
      return {
        scored: yield* gpu.read({ ...hw.scored, length: rows * 4 }),
        ref: yield* gpu.read({ ...refScored, length: rows * 4 }),
        values: yield* gpu.read({ ...packValue, length: rows })
      }
    })

    const updatePass = Effect.fnUntraced(function* (
      pack: PpoPack,
      count: number,
      host: { old: Float32Array; advantages: Float32Array; returns: Float32Array }
    ) {
      const batch = yield* upload(pack.packed)
      const rows = batch.lossRows
      const [from, to] = [pack.from, pack.from + rows]
      yield* gpu.write(old, host.old.slice(2 * from, 2 * to))
      yield* gpu.write(packAdvantage, host.advantages.slice(from, to))
      yield* gpu.write(packReturns, host.returns.slice(from, to))
      const refSelected = hw.refSelected
      if (refSelected === null) return
      const withRef = config.klCoef > 0
      yield* gpu.submit("ppo update", (tape) => {
        tape.copy(refOf(pack), refSelected, rows * C)
        scoreReference(tape, ops, model, decoder.weights.head, batch, hw, config.temperature)
        policyPass(tape, batch, packValue)
        scoreRows(tape, ops, model, decoder.weights.head, batch, hw, config.temperature, true)
        ops.ppoLoss(tape, {
          scored: hw.scored,
          old,
          advantage: packAdvantage,
          value: packValue,
          returns: packReturns,
          grad: hw.grad,
          dValue,
          metric,
          n: rows,
          count,
          params: config.loss
        })
        ops.columnSum(tape, { x: metric, out: sums, rows, cols: 8, accumulate: true })
        scoreRowsBackward(tape, ops, model, decoder.weights.head, batch, hw, config.temperature, withRef, {
          accumulate: false
        })
        ops.valueHeadBackward(tape, {
          dValue,
          h: hw.selected,
          w: head,
          dh: hw.dSelected,
          dw: dHead,
          rows,
          dim: C,
          accumulate: true
        })
        if (ws.gradients) scatterSelected(tape, ops, model, batch, hw.dSelected, ws.gradients.dHidden)
        backward(tape, ops, decoder, lora, batch, ws, { lora: grads })
      })
    })

    const update: PpoTrainer["update"] = Effect.fnUntraced(function* (batch, step) {
      const why = unusableBatch(batch, config, decoder.rope.positions, model.vocabSize)
      if (why !== undefined) return yield* badInput(`rl: ${why}`)
      const packs = makePacks(batch, capacity, C)
      const lengths = batch.map((b) => b.generation.ids.length)
      const count = lengths.reduce((a, b) => a + b, 0)
      if (count > tokens)
        return yield* invariantBroken(
          "rl",
          "planned memory fits",
          `${count} response tokens exceed the ${tokens} planned for`
        )
      const oldLogp = new Float32Array(count)
      const refLogp = new Float32Array(count)
      const values = new Float32Array(count)
      let [klSum, entropySum] = [0, 0]
      for (const pack of packs) {
        const { scored, ref, values: v } = yield* oldPass(pack)
        for (let i = 0; i < v.length; i++) {
          oldLogp[pack.from + i] = scored[4 * i] ?? 0
          refLogp[pack.from + i] = ref[4 * i] ?? 0
          values[pack.from + i] = v[i] ?? 0
          entropySum += scored[4 * i + 1] ?? 0
          klSum += scored[4 * i + 3] ?? 0
        }
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
      yield* gpu.write(reward, f32(rewards.flat()))
      yield* gpu.write(value, values)
      yield* gpu.write(first, offsets)
      yield* gpu.write(mask, new Uint32Array(count).fill(1))
      yield* gpu.write(
        bootstrap,
        f32(responses.map((r) => bootstrapValue(r.values, r.generation.truncated, config.reward.bootstrapTruncated)))
      )
      yield* gpu.submit("ppo advantages", (tape) => {
        ops.gae(tape, {
          reward,
          value,
          first,
          bootstrap,
          advantage,
          returns,
          sequences: batch.length,
          gamma: config.reward.gamma,
          lambda: config.reward.lambda
        })
        ops.whiten(tape, { x: advantage, mask, y: white, n: count })
      })
      const advantages = yield* gpu.read({ ...white, length: count })
      const targets = yield* gpu.read({ ...returns, length: count })
      const oldPairs = Float32Array.from(
        { length: 2 * count },
        (_, i) => (i % 2 === 0 ? oldLogp[i >> 1] : values[i >> 1]) ?? 0
      )
      let last: Float32Array = new Float32Array(8)
      let clip: Float32Array = new Float32Array(3)
      for (let epoch = 0; epoch < config.epochs; epoch++) {
        yield* gpu.submit("ppo epoch", (tape) => tape.clear(sums))
        for (const pack of packs) yield* updatePass(pack, count, { old: oldPairs, advantages, returns: targets })
        yield* gpu.submit("ppo optimizer", (tape) => {
          measureGradient(tape, ops, optimizer, config.clipNorm)
          const adam = {
            beta1: config.betas[0],
            beta2: config.betas[1],
            eps: config.eps,
            weightDecay: config.weightDecay
          }
          const part = (t: Tensor<"f32">, from: number, n: number) => window(t, from, n)
          for (const [from, n, lr] of [
            [0, adapterLength, config.lr],
            [adapterLength, C + 1, config.valueLr]
          ] as const) {
            ops.adamw(tape, {
              w: part(flat, from, n),
              g: part(optimizer.grads, from, n),
              m: part(optimizer.m, from, n),
              v: part(optimizer.v, from, n),
              clip: optimizer.clip,
              n,
              step: (step - 1) * config.epochs + epoch + 1,
              lr,
              ...adam
            })
          }
          tape.clear(optimizer.grads)
        })
        last = yield* gpu.read(sums)
        clip = yield* gpu.read(optimizer.clip)
        if ((clip[2] ?? 0) > 0.5 || last.some((x) => !Number.isFinite(x))) return yield* diverged("rl", step)
        if (epoch === 0 && step === 1 && Math.abs((last[6] ?? 1) - 1) > 1e-4) {
          return yield* invariantBroken(
            "rl",
            "ratio = 1 at the first update",
            `the mean ratio is ${last[6]}; sampling and training disagree`
          )
        }
      }
      const metrics = ppoMetrics({
        config,
        step,
        responses,
        kl: klSum,
        entropy: entropySum,
        values,
        returns: targets,
        last,
        gradNorm: clip[1] ?? 0
      })
      return { responses, metrics }
    })
    return {
      lora,
      update,
      adapterLength,
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
