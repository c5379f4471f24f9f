/**
 * The device's side of a PPO update: buffers, and what is recorded for scoring, advantages and epochs. Everything a
 * batch's tokens carry stays on the device from scoring to the last epoch; the host reads twice: what the rewards are made
 * of, and one record of the update at its end.
 */
import {
  alignElements,
  Gpu,
  makeOps,
  rehearse,
  type Section,
  type Tape,
  type Tensor,
  tensorAlignment,
  window
} from "@srcode/gpu"
import {
  allocBatch,
  allocHead,
  allocWorkspace,
  type Batch,
  backward,
  type Decoder,
  forward,
  headElements,
  type Lora,
  loraLength,
  loraScale,
  loraWindows,
  type PackedIndices,
  packSequences,
  scatterSelected,
  scoreReference,
  scoreRows,
  scoreRowsBackward,
  selectRows,
  uploadBatch
} from "@srcode/model"
import { Effect } from "effect"
import type { PassShape } from "../Checkpointing.ts"
import { allocOptimizer, measureGradient } from "../Optimizer.ts"
import type { PpoConfig } from "../PpoConfig.ts"
import type { PpoPack } from "./ppo-batch.ts"

/** What the policy and its reference say of a batch's response tokens, in order. */
export interface OldScores {
  /** [tokens, 4]: log-probability, entropy, log-sum-exp, KL to the reference. */
  readonly scored: Float32Array
  readonly ref: Float32Array
  readonly values: Float32Array
}

/** What an epoch tells: column sums of the loss kernel's metrics; scale, norm and flag of the gradient. */
export interface EpochRecord {
  readonly sums: Float32Array
  readonly clip: Float32Array
}

type F = Tensor<"f32">

/** Elements of the record an epoch takes. */
const epochStride = 2 * tensorAlignment

export const makePpoDevice = Effect.fnUntraced(function* (
  decoder: Decoder,
  config: PpoConfig,
  { capacity, checkpointing }: PassShape,
  initial: Float32Array<ArrayBuffer>,
  reference: Lora | null,
  section: Section
) {
  const gpu = yield* Gpu
  const ops = makeOps(gpu.info)
  const model = decoder.config
  const C = model.hiddenSize
  const adapterLength = loraLength(model, config.rank)
  const alloc = (label: string, length: number) => gpu.alloc(`ppo.${label}`, "f32", length)
  const flat = yield* section("adapter", alloc("params", adapterLength + C + 1))
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
  const optimizer = yield* section("optimizer", allocOptimizer("ppo", flat))
  const grads = loraWindows(model, config.rank, optimizer.grads)
  const dHead = window(optimizer.grads, adapterLength, C + 1, "d_value_head")
  const { ws, hw, buffers } = yield* section(
    "activations",
    Effect.gen(function* () {
      const room = { capacity, reference: true }
      const rank = Math.max(config.rank, reference?.rank ?? 0)
      const ws = yield* allocWorkspace(model, {
        ...{ capacity, save: true, rank, checkpointing },
        head: headElements(model, room)
      })
      const hw = yield* allocHead(model, { ...room, scratch: ws.head })
      return { ws, hw, buffers: yield* allocBatch(capacity) }
    })
  )
  const tokens = config.batchTokens
  const batchWide = Effect.gen(function* () {
    const mask = yield* gpu.alloc("ppo.mask", "u32", tokens)
    yield* gpu.write(mask, new Uint32Array(tokens).fill(1))
    return {
      mask,
      first: yield* gpu.alloc("ppo.first", "u32", config.batchSize + 1),
      bootstrap: yield* alloc("bootstrap", config.batchSize),
      reward: yield* alloc("reward", tokens),
      advantage: yield* alloc("advantage", tokens),
      white: yield* alloc("whitened", tokens),
      oldPairs: yield* alloc("old_pairs", 2 * tokens),
      refStates: yield* alloc("ref_states", (tokens + 64 * config.batchSize) * C),
      // Read as one: scores of the policy, of the reference, values.
      old: yield* alloc("old_record", 2 * alignElements(4 * tokens) + tokens),
      // Read as one: sums and clip of each epoch, then the returns.
      record: yield* alloc("record", config.epochs * epochStride + tokens)
    }
  })
  const wide = yield* section("batch", batchWide)
  const [refAt, valueAt] = [alignElements(4 * tokens), 2 * alignElements(4 * tokens)]
  const value = window(wide.old, valueAt, tokens)
  const returns = window(wide.record, config.epochs * epochStride, tokens)
  const [packAdvantage, packReturns, packOld, packValue, dValue, metric] = [
    yield* alloc("pack_advantage", capacity),
    yield* alloc("pack_returns", capacity),
    yield* alloc("old", 2 * capacity),
    yield* alloc("pack_value", capacity),
    yield* alloc("d_value", capacity),
    yield* alloc("metric", 8 * capacity)
  ]

  const upload = (packed: PackedIndices) => uploadBatch(buffers, packed).pipe(Effect.provideService(Gpu, gpu))
  const statesOf = (pack: PpoPack): F =>
    window(wide.refStates, pack.refAt, pack.packed.lossRow.length * C, "ref_states")

  /** Records states, values and scores of the policy for one pack, beside those of the reference. */
  const policyPass = (tape: Tape, batch: Batch): void => {
    forward(tape, ops, decoder, lora, batch, ws)
    selectRows(tape, ops, model, batch, ws.hidden, hw.selected)
    ops.valueHead(tape, { h: hw.selected, w: head, value: packValue, rows: batch.lossRows, dim: C })
    scoreRows(tape, ops, model, decoder.weights.head, batch, hw, config.temperature, true)
  }

  /** Scores all packs under policy and reference; the reference's states stay on the device for the epochs. */
  const scoreOld = Effect.fnUntraced(function* (packs: ReadonlyArray<PpoPack>, count: number) {
    const { refSelected, refScored } = hw
    for (const pack of packs) {
      const batch = yield* upload(pack.packed)
      const rows = batch.lossRows
      if (refSelected === null || refScored === null) continue
      yield* gpu.submit("ppo old and reference", (tape) => {
        forward(tape, ops, decoder, reference, batch, ws)
        selectRows(tape, ops, model, batch, ws.hidden, refSelected)
        tape.copy(refSelected, statesOf(pack), rows * C)
        scoreReference(tape, ops, model, decoder.weights.head, batch, hw, config.temperature)
        policyPass(tape, batch)
        tape.copy(hw.scored, window(wide.old, 4 * pack.from, 4 * rows), 4 * rows)
        tape.copy(refScored, window(wide.old, refAt + 4 * pack.from, 4 * rows), 4 * rows)
        tape.copy(packValue, window(value, pack.from, rows), rows)
      })
    }
    const all = yield* gpu.read(window(wide.old, 0, valueAt + count))
    const scores: OldScores = {
      scored: all.subarray(0, 4 * count),
      ref: all.subarray(refAt, refAt + 4 * count),
      values: all.subarray(valueAt, valueAt + count)
    }
    return scores
  })

  /** Advantages (whitened) and returns of the batch from its rewards, by the values that stand on the device. */
  const advantages = Effect.fnUntraced(function* (input: {
    readonly rewards: Float32Array<ArrayBuffer>
    readonly offsets: Uint32Array<ArrayBuffer>
    readonly bootstrap: Float32Array<ArrayBuffer>
    /** [tokens, 2]: log-probability and value when sampled. */
    readonly oldPairs: Float32Array<ArrayBuffer>
  }) {
    const { reward, first, bootstrap, mask, advantage, white } = wide
    yield* gpu.write(reward, input.rewards)
    yield* gpu.write(first, input.offsets)
    yield* gpu.write(bootstrap, input.bootstrap)
    yield* gpu.write(wide.oldPairs, input.oldPairs)
    const { gamma, lambda } = config.reward
    yield* gpu.submit("ppo advantages", (tape) => {
      const sequences = input.bootstrap.length
      ops.gae(tape, { reward, value, first, bootstrap, advantage, returns, sequences, gamma, lambda })
      ops.whiten(tape, { x: advantage, mask, y: white, n: input.rewards.length })
    })
  })

  /** The optimizer's update of one epoch: adapter and value head, each with its own rate. */
  const optimise = (tape: Tape, clip: F, step: number): void => {
    measureGradient(tape, ops, { ...optimizer, clip }, config.clipNorm)
    const { eps, weightDecay } = config
    const [beta1, beta2] = config.betas
    const part = (t: F, from: number, n: number) => window(t, from, n)
    for (const [from, n, lr] of [
      [0, adapterLength, config.lr],
      [adapterLength, C + 1, config.valueLr]
    ] as const) {
      const [w, g] = [part(flat, from, n), part(optimizer.grads, from, n)]
      const [m, v] = [part(optimizer.m, from, n), part(optimizer.v, from, n)]
      ops.adamw(tape, { w, g, m, v, clip, n, step, lr, beta1, beta2, eps, weightDecay })
    }
    tape.clear(optimizer.grads)
  }

  /** One pass over all packs and its update; `index` counts the epochs of this batch from 0, `step` all since the start from 1. */
  const epoch = Effect.fnUntraced(function* (
    packs: ReadonlyArray<PpoPack>,
    count: number,
    index: number,
    step: number
  ) {
    const { refSelected } = hw
    if (refSelected === null) return
    const sums = window(wide.record, index * epochStride, 8)
    const clip = window(wide.record, index * epochStride + tensorAlignment, 3)
    for (const [i, pack] of packs.entries()) {
      const batch = yield* upload(pack.packed)
      const rows = batch.lossRows
      const part = (t: F, width: number) => window(t, width * pack.from, width * rows)
      yield* gpu.submit("ppo update", (tape) => {
        if (i === 0) tape.clear(sums)
        tape.copy(part(wide.oldPairs, 2), packOld)
        tape.copy(part(wide.white, 1), packAdvantage)
        tape.copy(part(returns, 1), packReturns)
        tape.copy(statesOf(pack), refSelected, rows * C)
        scoreReference(tape, ops, model, decoder.weights.head, batch, hw, config.temperature)
        policyPass(tape, batch)
        ops.ppoLoss(tape, {
          scored: hw.scored,
          old: packOld,
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
        scoreRowsBackward(tape, ops, model, decoder.weights.head, batch, hw, config.temperature, config.klCoef > 0, {
          accumulate: false
        })
        ops.valueHeadBackward(tape, {
          ...{ dValue, h: hw.selected, w: head, dh: hw.dSelected, dw: dHead, rows, dim: C },
          accumulate: true
        })
        if (ws.gradients) scatterSelected(tape, ops, model, batch, hw.dSelected, ws.gradients.dHidden)
        backward(tape, ops, decoder, lora, batch, ws, { lora: grads })
        if (i + 1 === packs.length) optimise(tape, clip, step)
      })
    }
  })

  /** The record of the batch's epochs, and the returns of its `count` tokens. */
  const readRecord = Effect.fnUntraced(function* (count: number) {
    const all = yield* gpu.read(window(wide.record, 0, config.epochs * epochStride + count))
    const epochs = Array.from({ length: config.epochs }, (_, i): EpochRecord => {
      const at = i * epochStride
      return { sums: all.subarray(at, at + 8), clip: all.subarray(at + tensorAlignment, at + tensorAlignment + 3) }
    })
    return { epochs, returns: all.subarray(config.epochs * epochStride) }
  })

  // The largest pack there can be.
  const longest = Math.max(1, Math.min(capacity, decoder.rope.positions))
  const sequences = Math.min(Math.ceil(capacity / longest), config.batchSize)
  const responses = Math.floor(tokens / sequences)
  const packed = packSequences(
    Array.from({ length: sequences }, (_, i) => {
      const ids = new Array<number>(Math.max(1, Math.min(longest, capacity - i * longest))).fill(0)
      return { ids, loss: (t: number) => t >= ids.length - responses }
    })
  )
  const pack: PpoPack = { packed, from: 0, refAt: 0 }
  const count = packed.lossRow.length
  if (count > 0) yield* rehearse(Effect.andThen(scoreOld([pack], count), epoch([pack], count, 0, 1)))

  return { lora, flat, optimizer, adapterLength, scoreOld, advantages, epoch, readRecord }
})
