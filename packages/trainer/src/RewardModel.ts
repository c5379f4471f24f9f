/**
 * A pairwise reward model on the trunk: a LoRA adapter and a scalar head read at the last token, trained by
 * Bradley–Terry (chosen = secure, rejected = vulnerable). Small and weak on purpose in the embedded world: it stands for
 * the imperfect sequence reward that token rewards are meant to help.
 */

import { Gpu, type GpuError, makeOps, rehearse, type Section, tensorAlignment, window } from "@srcode/gpu"
import {
  allocBatch,
  allocWorkspace,
  backward,
  type Decoder,
  forward,
  initialLora,
  type Lora,
  loraLength,
  loraScale,
  loraWindows,
  type PackedIndices,
  packSequences,
  scatterSelected,
  selectRows,
  uploadBatch
} from "@srcode/model"
import { Effect, type Scope } from "effect"
import { type CheckpointingChoice, choosePass, passShapes, unnamed } from "./Checkpointing.ts"
import { splitBySize, splitByTokens, unusableSequence } from "./LanguageModelStep.ts"
import { type AdamWOptions, allocOptimizer, applyUpdate, measureGradient } from "./Optimizer.ts"
import { batchIndices, uniforms } from "./Random.ts"
import { learningRate } from "./Schedule.ts"
import { badInput, diverged, type TrainerError } from "./TrainerError.ts"

export interface PreferencePair {
  readonly chosen: ReadonlyArray<number>
  readonly rejected: ReadonlyArray<number>
}

export interface RewardModelConfig {
  readonly steps: number
  /** Pairs an optimizer step. */
  readonly batchSize: number
  readonly lr: number
  readonly rank: number
  readonly alpha: number
  readonly clip: number
  readonly seed: number
  /** Tokens of a pass; a step takes as many passes as it needs. */
  readonly capacity: number
  /** What a pass keeps for backward; default auto. */
  readonly checkpointing?: CheckpointingChoice
}

export interface RewardModelStep {
  readonly step: number
  readonly loss: number
  /** Share of the batch's pairs ranked rightly before the update. */
  readonly accuracy: number
  readonly gradNorm: number
}

export interface RewardModel {
  readonly lora: Lora
  train(
    pairs: ReadonlyArray<PreferencePair>,
    onStep: (step: RewardModelStep) => Effect.Effect<void>
  ): Effect.Effect<void, GpuError | TrainerError>
  /** One score a sequence, at its last token. */
  score(sequences: ReadonlyArray<ReadonlyArray<number>>): Effect.Effect<ReadonlyArray<number>, GpuError | TrainerError>
  /** Adapter and head as one host image, for a checkpoint. */
  readonly image: Effect.Effect<Float32Array<ArrayBuffer>, GpuError>
  load(image: Float32Array<ArrayBuffer>): Effect.Effect<void, GpuError>
}

/** Indices whose loss rows are the last tokens. */
const packLast = (sequences: ReadonlyArray<ReadonlyArray<number>>): PackedIndices => {
  const packed = packSequences(sequences.map((ids) => ({ ids })))
  let at = 0
  const lossRow = Uint32Array.from(sequences, (ids) => (at += ids.length) - 1)
  return {
    ...packed,
    lossRow,
    target: new Uint32Array(lossRow.length),
    lossFirst: Uint32Array.from({ length: sequences.length + 1 }, (_, i) => i)
  }
}

/** Elements of the flat parameter image: adapter, then head [C + 1]. */
export const rewardModelLength = (decoder: Decoder, rank: number): number =>
  loraLength(decoder.config, rank) + decoder.config.hiddenSize + 1

const tokensOf = (pair: PreferencePair): number => pair.chosen.length + pair.rejected.length

export const makeRewardModel = (
  decoder: Decoder,
  config: RewardModelConfig,
  section: Section = unnamed
): Effect.Effect<RewardModel, GpuError, Gpu | Scope.Scope> =>
  Effect.gen(function* () {
    const gpu = yield* Gpu
    const { checkpointing } =
      config.checkpointing !== undefined && config.checkpointing !== "auto"
        ? { checkpointing: config.checkpointing }
        : yield* choosePass("reward model", passShapes("auto", config.capacity, config.capacity), (pass) =>
            makeRewardModel(decoder, { ...config, ...pass })
          )
    const ops = makeOps(gpu.info)
    const model = decoder.config
    const C = model.hiddenSize
    const adapter = loraLength(model, config.rank)
    const flat = yield* gpu.alloc("reward_model", "f32", adapter + C + 1)
    const scoreHead = window(flat, adapter, C + 1, "reward_head")
    const lora: Lora = {
      rank: config.rank,
      alpha: config.alpha,
      scale: loraScale(config.rank, config.alpha, false),
      params: loraWindows(model, config.rank, flat)
    }
    // What a step tells the host, in one buffer: loss and accuracy, then scale, norm and flag of the gradient.
    const record = yield* gpu.alloc("reward_model.record", "f32", tensorAlignment + 3)
    const sums = window(record, 0, 2)
    const optimizer = yield* section(
      "optimizer",
      allocOptimizer("reward_model", flat, window(record, tensorAlignment, 3))
    )
    const grads = loraWindows(model, config.rank, optimizer.grads)
    const dHead = window(optimizer.grads, adapter, C + 1, "d_reward_head")
    const rowsMax = config.capacity
    const head = { selected: rowsMax * C, dSelected: rowsMax * C }
    const ws = yield* section(
      "activations",
      allocWorkspace(model, { capacity: config.capacity, save: true, rank: config.rank, checkpointing, head })
    )
    const selected = ws.head.selected ?? (yield* gpu.alloc("reward_model.selected", "f32", rowsMax * C))
    const dSelected = ws.head.dSelected ?? (yield* gpu.alloc("reward_model.d_selected", "f32", rowsMax * C))
    const buffers = yield* allocBatch(config.capacity)
    const score1 = yield* gpu.alloc("reward_model.score", "f32", rowsMax)
    const dScore = yield* gpu.alloc("reward_model.d_score", "f32", rowsMax)
    const metric = yield* gpu.alloc("reward_model.metric", "f32", rowsMax)
    const image = initialLora(model, config.rank, uniforms(config.seed, 3))
    const start = new Float32Array(flat.length)
    start.set(image)
    yield* gpu.write(flat, start)

    const upload = (packed: PackedIndices) => uploadBatch(buffers, packed).pipe(Effect.provideService(Gpu, gpu))

    const limit = Math.min(config.capacity, decoder.rope.positions)
    const unusable = (ids: ReadonlyArray<number>): string | undefined =>
      ids.length === 0 ? "is empty; there is no last token to read" : unusableSequence(ids, limit, model.vocabSize)

    const score: RewardModel["score"] = Effect.fnUntraced(function* (sequences) {
      for (const [i, ids] of sequences.entries()) {
        const why = unusable(ids)
        if (why !== undefined) return yield* badInput(`reward model: sequence ${i + 1} ${why}`)
      }
      const out: Array<number> = []
      for (const pack of splitByTokens(
        sequences.map((ids) => ({ ids })),
        config.capacity
      )) {
        const batch = yield* upload(packLast(pack.map((s) => [...Array.from(s.ids)])))
        yield* gpu.submit("reward model", (tape) => {
          forward(tape, ops, decoder, lora, batch, ws)
          selectRows(tape, ops, model, batch, ws.hidden, selected)
          ops.valueHead(tape, { h: selected, w: scoreHead, value: score1, rows: batch.lossRows, dim: C })
        })
        out.push(...(yield* gpu.read({ ...score1, length: batch.lossRows })))
      }
      return out
    })

    /** Forward, loss and backward over all pairs of a step, and its update. */
    const update = Effect.fnUntraced(function* (
      chosen: ReadonlyArray<PreferencePair>,
      adam: AdamWOptions,
      step: number
    ) {
      const packs = splitBySize(chosen, tokensOf, config.capacity)
      for (const [i, pack] of packs.entries()) {
        const batch = yield* upload(packLast(pack.flatMap((p) => [p.chosen, p.rejected])))
        const rows = batch.lossRows
        yield* gpu.submit("reward model step", (tape) => {
          if (i === 0) tape.clear(sums)
          forward(tape, ops, decoder, lora, batch, ws)
          selectRows(tape, ops, model, batch, ws.hidden, selected)
          ops.valueHead(tape, { h: selected, w: scoreHead, value: score1, rows, dim: C })
          ops.pairwiseLoss(tape, { score: score1, dScore, metric, pairs: pack.length, count: chosen.length })
          ops.columnSum(tape, { x: metric, out: sums, rows: pack.length, cols: 2, accumulate: true })
          ops.valueHeadBackward(tape, {
            ...{ dValue: dScore, h: selected, w: scoreHead, dh: dSelected, dw: dHead, rows, dim: C },
            accumulate: false
          })
          if (ws.gradients) scatterSelected(tape, ops, model, batch, dSelected, ws.gradients.dHidden)
          backward(tape, ops, decoder, lora, batch, ws, { lora: grads })
          if (i + 1 < packs.length) return
          measureGradient(tape, ops, optimizer, config.clip)
          applyUpdate(tape, ops, optimizer, adam, step)
        })
      }
    })

    const train: RewardModel["train"] = Effect.fnUntraced(function* (pairs, onStep) {
      if (pairs.length === 0) return yield* badInput("there is no preference pair to train a reward model on")
      for (const [i, pair] of pairs.entries()) {
        const why = unusable(pair.chosen) ?? unusable(pair.rejected)
        if (why !== undefined) return yield* badInput(`reward model: a side of preference pair ${i + 1} ${why}`)
        if (tokensOf(pair) > config.capacity) {
          return yield* badInput(
            `reward model: preference pair ${i + 1} has ${tokensOf(pair)} tokens and exceeds the pass of ${config.capacity}; shorten it or raise the capacity`
          )
        }
      }
      for (let step = 0; step < config.steps; step++) {
        const chosen = batchIndices(pairs.length, config.batchSize, step, config.seed, true).flatMap((i) =>
          pairs[i] ? [pairs[i]] : []
        )
        const lr = learningRate("cosine", config.lr, step, config.steps, 0)
        const adam = { lr, betas: [0.9, 0.99], eps: 1e-8, weightDecay: 0, clip: config.clip } as const
        yield* update(chosen, adam, step + 1)
        const told = yield* gpu.read(record)
        const [loss, accuracy] = told
        const clip = told.subarray(tensorAlignment)
        if ((clip[2] ?? 0) > 0.5) return yield* diverged("reward model", step + 1)
        yield* onStep({ step: step + 1, loss: loss ?? 0, accuracy: accuracy ?? 0, gradNorm: clip[1] ?? 0 })
      }
    })
    const side = new Array<number>(Math.max(1, Math.min(limit, Math.floor(config.capacity / 2)))).fill(0)
    const pairs = Array.from({ length: Math.max(1, Math.floor(config.capacity / (2 * side.length))) }, () => ({
      chosen: side,
      rejected: side
    }))
    const adam = { lr: 0, betas: [0.9, 0.99], eps: 1e-8, weightDecay: 0, clip: config.clip } as const
    yield* rehearse(update(pairs, adam, 1))
    return { lora, train, score, image: gpu.read(flat), load: (data) => gpu.write(flat, data) }
  })
