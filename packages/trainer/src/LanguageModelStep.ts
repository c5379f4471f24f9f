/**
 * One optimizer step of next-token training: forward, fused head, backward over micro-batches, clip, AdamW.
 *
 * The loss is the mean over all supervised tokens of the whole step, so the split into micro-batches does not change
 * it. Trains either an adapter (base frozen) or all weights. One small read-back a step.
 */

import { Gpu, type GpuError, makeOps, type Tensor } from "@srcode/gpu"
import {
  allocBatch,
  allocHead,
  allocWorkspace,
  backward,
  type Decoder,
  forward,
  type GradientTarget,
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

/** Greedy split of a step's sequences into packs of at most `capacity` tokens, in order. */
export const splitByTokens = (
  sequences: ReadonlyArray<Sequence>,
  capacity: number
): ReadonlyArray<ReadonlyArray<Sequence>> => {
  const packs: Array<Array<Sequence>> = []
  let room = 0
  for (const s of sequences) {
    const last = packs.at(-1)
    if (last === undefined || s.ids.length > room) {
      packs.push([s])
      room = capacity - s.ids.length
    } else {
      last.push(s)
      room -= s.ids.length
    }
  }
  return packs
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
}

type What = { readonly lora: Lora } | { readonly flat: Tensor<"f32"> }

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
    const optimizer = yield* allocOptimizer(options.stage, "lora" in what ? what.lora.params.flat : what.flat)
    const grads: GradientTarget = lora
      ? { lora: loraWindows(config, lora.rank, optimizer.grads) }
      : { weights: windowsOf(config, optimizer.grads) }
    const ws = yield* allocWorkspace(config, { capacity: options.capacity, save: true, rank: lora?.rank ?? 0 })
    const hw = yield* allocHead(config, { capacity: options.capacity, reference: false })
    const buffers = yield* allocBatch(options.capacity)
    const sums = yield* gpu.alloc("step.sums", "f32", 4)
    const embedStart = lora ? null : yield* gpu.alloc("embed.start", "u32", config.vocabSize + 1)
    const embedOrder = lora ? null : yield* gpu.alloc("embed.order", "u32", options.capacity)

    const step = Effect.fnUntraced(function* (sequences: ReadonlyArray<Sequence>, adam: AdamWOptions, number: number) {
      for (const [i, { ids }] of sequences.entries()) {
        const why = unusableSequence(ids, Math.min(options.capacity, decoder.rope.positions), config.vocabSize)
        if (why !== undefined) return yield* badInput(`${options.stage}: sequence ${i + 1} of step ${number} ${why}`)
      }
      const packs = splitByTokens(sequences, options.capacity).map(packSequences)
      const supervised = packs.reduce((sum, p) => sum + p.lossRow.length, 0)
      if (supervised === 0) {
        return yield* badInput(
          `${options.stage}: no token of step ${number} carries loss; give it longer sequences or a loss mask with a 1 after the first token`
        )
      }
      const tokens = packs.reduce((sum, p) => sum + p.rows, 0)
      yield* gpu.submit("step start", (tape) => tape.clear(sums))
      for (const packed of packs) {
        if (packed.lossRow.length === 0) continue
        const batch = yield* uploadBatch(buffers, packed)
        const grad = new Float32Array(batch.lossRows * 3)
        for (let i = 0; i < batch.lossRows; i++) grad[3 * i] = -1 / supervised
        yield* gpu.write(hw.grad, grad)
        let embed: { start: Tensor<"u32">; order: Tensor<"u32"> } | undefined
        if (embedStart !== null && embedOrder !== null) {
          const { start, order } = sortByToken(packed.ids, config.vocabSize)
          yield* gpu.write(embedStart, start)
          yield* gpu.write(embedOrder, order)
          embed = { start: embedStart, order: embedOrder }
        }
        yield* gpu.submit(`${options.stage} micro-batch`, (tape) => {
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
        })
      }
      yield* gpu.submit(`${options.stage} update`, (tape) => {
        measureGradient(tape, ops, optimizer, adam.clip)
        applyUpdate(tape, ops, optimizer, adam, number)
      })
      const [totals, clip] = [yield* gpu.read(sums), yield* gpu.read(optimizer.clip)]
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
