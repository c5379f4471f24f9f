/**
 * One optimizer step of next-token training: forward, fused head, backward over micro-batches, clip, AdamW.
 *
 * The loss is the mean over all supervised tokens of the whole step, so the split into micro-batches does not change
 * it. Trains either an adapter (base frozen) or all weights. One submit a micro-batch, one small read-back a step.
 */

import { Gpu, type GpuError, makeOps, rehearse, type Section, type Tensor, tensorAlignment, window } from "@srcode/gpu"
import {
  allocBatch,
  allocHead,
  allocWorkspace,
  backward,
  type Checkpointing,
  type Decoder,
  forward,
  type GradientTarget,
  headElements,
  type Lora,
  loraWindows,
  packSequences,
  type Sequence,
  scatterSelected,
  scoreRows,
  scoreRowsBackward,
  selectRows,
  uploadBatch,
  windowsOf
} from "@srcode/model"
import { Effect, type Scope } from "effect"
import { unnamed } from "./Checkpointing.ts"
import { type AdamWOptions, allocOptimizer, applyUpdate, measureGradient, type Optimizer } from "./Optimizer.ts"
import { badInput, diverged, type TrainerError } from "./TrainerError.ts"

export interface StepResult {
  /** Mean negative log-likelihood over the step's supervised tokens, nats. */
  readonly loss: number
  /** Mean entropy of the predictions, nats. */
  readonly entropy: number
  readonly gradNorm: number
  readonly tokens: number
  readonly supervised: number
}

export interface LanguageModelTrainer {
  readonly optimizer: Optimizer
  /** `step` counts from 1. Sequences are packed into micro-batches of at most `capacity` tokens. */
  step(
    sequences: ReadonlyArray<Sequence>,
    options: AdamWOptions,
    step: number
  ): Effect.Effect<StepResult, GpuError | TrainerError, Gpu>
}

/** Greedy split into packs of at most `capacity` tokens, in order. */
export const splitBySize = <T>(
  items: ReadonlyArray<T>,
  tokens: (item: T) => number,
  capacity: number
): ReadonlyArray<ReadonlyArray<T>> => {
  const packs: Array<Array<T>> = []
  let room = 0
  for (const item of items) {
    const last = packs.at(-1)
    const size = tokens(item)
    if (last === undefined || size > room) {
      packs.push([item])
      room = capacity - size
    } else {
      last.push(item)
      room -= size
    }
  }
  return packs
}

/** Greedy split of a step's sequences into packs of at most `capacity` tokens, in order. */
export const splitByTokens = (
  sequences: ReadonlyArray<Sequence>,
  capacity: number
): ReadonlyArray<ReadonlyArray<Sequence>> => splitBySize(sequences, (s) => s.ids.length, capacity)

/**
 * The sequences in few packs of at most `capacity` tokens: first fit decreasing, or in order where that takes no more.
 * Packs stand in the order of their first sequences, and sequences in a pack in theirs, so the same sequences always give
 * the same sums.
 */
export const packFewest = (
  sequences: ReadonlyArray<Sequence>,
  capacity: number
): ReadonlyArray<ReadonlyArray<Sequence>> => {
  const packs: Array<{ room: number; members: Array<readonly [index: number, sequence: Sequence]> }> = []
  const byLength = [...sequences.entries()].sort(([, a], [, b]) => b.ids.length - a.ids.length)
  for (const member of byLength) {
    const { length } = member[1].ids
    const pack = packs.find(({ room }) => room >= length)
    if (pack === undefined) packs.push({ room: capacity - length, members: [member] })
    else {
      pack.room -= length
      pack.members.push(member)
    }
  }
  const inOrder = splitByTokens(sequences, capacity)
  if (inOrder.length <= packs.length) return inOrder
  return packs
    .map(({ members }) => members.sort(([a], [b]) => a - b))
    .sort((a, b) => (a[0]?.[0] ?? 0) - (b[0]?.[0] ?? 0))
    .map((members) => members.map(([, sequence]) => sequence))
}

/** Why a sequence cannot be trained on, if so: its length or an id outside the vocabulary. */
export const unusableSequence = (ids: ArrayLike<number>, limit: number, vocabSize: number): string | undefined => {
  if (ids.length > limit) return `has ${ids.length} tokens, more than the ${limit} of a micro-batch or of the model`
  for (let t = 0; t < ids.length; t++) {
    const id = ids[t] ?? -1
    if (!(Number.isInteger(id) && id >= 0 && id < vocabSize))
      return `holds the token id ${id}, which is outside the vocabulary of ${vocabSize}`
  }
  return undefined
}

export interface TrainerOptions {
  readonly stage: string
  /** Largest number of tokens of a micro-batch; no sequence may be longer. */
  readonly capacity: number
  /** What is kept for backward; default `none`. */
  readonly checkpointing?: Checkpointing
  /** How rows become micro-batches: in their order, or in few packs; default `order`. */
  readonly packing?: "order" | "fewest"
  /** Names the parts of a memory plan. */
  readonly section?: Section
}

export type What = { readonly lora: Lora } | { readonly flat: Tensor<"f32"> }

/** Allocates everything a run of steps needs; lives as long as the Scope. */
export const makeLanguageModelTrainer = (
  decoder: Decoder,
  what: What,
  options: TrainerOptions
): Effect.Effect<LanguageModelTrainer, GpuError, Gpu | Scope.Scope> =>
  Effect.gen(function* () {
    const gpu = yield* Gpu
    const ops = makeOps(gpu.info)
    const { config } = decoder
    const lora = "lora" in what ? what.lora : null
    const { capacity, section = unnamed } = options
    // What a step tells the host, in one buffer: sums of the scores, then scale, norm and flag of the gradient.
    const record = yield* gpu.alloc("step.record", "f32", tensorAlignment + 3)
    const sums = window(record, 0, 4)
    const optimizer = yield* section(
      "optimizer",
      allocOptimizer(
        options.stage,
        "lora" in what ? what.lora.params.flat : what.flat,
        window(record, tensorAlignment, 3)
      )
    )
    const grads: GradientTarget = lora
      ? { lora: loraWindows(config, lora.rank, optimizer.grads) }
      : { weights: windowsOf(config, optimizer.grads) }
    const { checkpointing = "none" } = options
    const rank = lora?.rank ?? 0
    const { ws, hw, buffers } = yield* section(
      "activations",
      Effect.gen(function* () {
        const head = headElements(config, { capacity, reference: false })
        const ws = yield* allocWorkspace(config, { capacity, save: true, rank, checkpointing, head })
        const hw = yield* allocHead(config, { capacity, reference: false, scratch: ws.head })
        return { ws, hw, buffers: yield* allocBatch(capacity) }
      })
    )
    const embedStart = lora ? null : yield* gpu.alloc("embed.start", "u32", config.vocabSize + 1)
    const embedOrder = lora ? null : yield* gpu.alloc("embed.order", "u32", capacity)

    const step = Effect.fnUntraced(function* (sequences: ReadonlyArray<Sequence>, adam: AdamWOptions, number: number) {
      for (const [i, { ids }] of sequences.entries()) {
        const why = unusableSequence(ids, Math.min(capacity, decoder.rope.positions), config.vocabSize)
        if (why !== undefined) return yield* badInput(`${options.stage}: sequence ${i + 1} of step ${number} ${why}`)
      }
      const split = options.packing === "fewest" ? packFewest : splitByTokens
      const packs = split(sequences, capacity).map(packSequences)
      const supervised = packs.reduce((sum, p) => sum + p.lossRow.length, 0)
      if (supervised === 0) {
        return yield* badInput(
          `${options.stage}: no token of step ${number} carries loss; give it longer sequences or a loss mask with a 1 after the first token`
        )
      }
      const tokens = packs.reduce((sum, p) => sum + p.rows, 0)
      const trained = packs.filter((p) => p.lossRow.length > 0)
      const grad = new Float32Array(3 * trained.reduce((max, p) => Math.max(max, p.lossRow.length), 0))
      for (let i = 0; i < grad.length; i += 3) grad[i] = -1 / supervised
      yield* gpu.write(hw.grad, grad)
      for (const [i, packed] of trained.entries()) {
        const batch = yield* uploadBatch(buffers, packed)
        let embed: { start: Tensor<"u32">; order: Tensor<"u32"> } | undefined
        if (embedStart !== null && embedOrder !== null) {
          const { start, order } = sortByToken(packed.ids, config.vocabSize)
          yield* gpu.write(embedStart, start)
          yield* gpu.write(embedOrder, order)
          embed = { start: embedStart, order: embedOrder }
        }
        yield* gpu.submit(`${options.stage} micro-batch`, (tape) => {
          if (i === 0) tape.clear(sums)
          forward(tape, ops, decoder, lora, batch, ws)
          selectRows(tape, ops, config, batch, ws.hidden, hw.selected)
          scoreRows(tape, ops, config, decoder.weights.head, batch, hw, 1, false)
          ops.columnSum(tape, { x: hw.scored, out: sums, rows: batch.lossRows, cols: 4, accumulate: true })
          scoreRowsBackward(tape, ops, config, decoder.weights.head, batch, hw, 1, false, {
            accumulate: false,
            ...(grads.weights ? { dHead: grads.weights.head } : {})
          })
          if (ws.gradients) scatterSelected(tape, ops, config, batch, hw.dSelected, ws.gradients.dHidden)
          backward(tape, ops, decoder, lora, batch, ws, grads, embed)
          if (i + 1 < trained.length) return
          measureGradient(tape, ops, optimizer, adam.clip)
          applyUpdate(tape, ops, optimizer, adam, number)
        })
      }
      const totals = yield* gpu.read(record)
      const clip = totals.subarray(tensorAlignment)
      const loss = -(totals[0] ?? 0) / supervised
      if ((clip[2] ?? 0) > 0.5 || !Number.isFinite(loss)) return yield* diverged(options.stage, number)
      const result: StepResult = {
        loss,
        entropy: (totals[1] ?? 0) / supervised,
        gradNorm: clip[1] ?? 0,
        tokens,
        supervised
      }
      return result
    })
    const limit = Math.max(1, Math.min(capacity, decoder.rope.positions))
    const largest = Array.from({ length: Math.ceil(capacity / limit) }, (_, i) => ({
      ids: new Array<number>(Math.min(limit, capacity - i * limit)).fill(0),
      loss: () => true
    }))
    const adam = { lr: 0, betas: [0.9, 0.999], eps: 1e-8, weightDecay: 0, clip: 1 } as const
    yield* rehearse(Effect.catchTag(step(largest, adam, 1), "TrainerError", () => Effect.void))
    return { optimizer, step }
  })

/** Occurrences of each token id in row order: rows order[start[v]] … order[start[v + 1] - 1] hold token v. */
export const sortByToken = (ids: Uint32Array, vocabSize: number) => {
  const start = new Uint32Array(vocabSize + 1)
  for (const id of ids) start[id + 1] = (start[id + 1] ?? 0) + 1
  for (let v = 0; v < vocabSize; v++) start[v + 1] = (start[v + 1] ?? 0) + (start[v] ?? 0)
  const next = start.slice()
  const order = new Uint32Array(ids.length)
  ids.forEach((id, row) => {
    order[next[id] ?? 0] = row
    next[id] = (next[id] ?? 0) + 1
  })
  return { start, order }
}
