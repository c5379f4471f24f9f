/**
 * Supervised fine-tuning of a LoRA adapter: loss on completion tokens only (the end token included), mean over all
 * supervised tokens of an optimizer step, AdamW.
 *
 * Resumable: the adapter and the optimiser are saved every `saveEvery` steps; batches follow from the step number, so a
 * resumed run ends with the same bytes.
 */

import { Gpu, type Section } from "@srcode/gpu"
import {
  type Decoder,
  hasState,
  initialLora,
  type Lora,
  loadState,
  ModelError,
  type Sequence,
  saveState
} from "@srcode/model"
import { Clock, Effect, Schema } from "effect"
import { CheckpointingChoice, choosePass, type PassShape, type PassShapes, passShapes } from "./Checkpointing.ts"
import { makeLanguageModelTrainer, type StepResult } from "./LanguageModelStep.ts"
import { readOptimizer, writeOptimizer } from "./Optimizer.ts"
import { batchIndices, uniforms } from "./Random.ts"
import { learningRate, ScheduleKind } from "./Schedule.ts"
import { badInput, invariantBroken } from "./TrainerError.ts"

const Positive = Schema.Finite.check(Schema.isGreaterThan(0))
const NonNegative = Schema.Finite.check(Schema.isGreaterThanOrEqualTo(0))
const Count = Schema.Int.check(Schema.isGreaterThan(0))
const Beta = Schema.Finite.check(Schema.isBetween({ minimum: 0, maximum: 0.999_999_9 }))
const withDefault = <S extends Schema.Top>(schema: S, value: S["Encoded"]) =>
  schema.pipe(Schema.withDecodingDefault(Effect.succeed(value)))

export const SftConfig = Schema.Struct({
  /** Optimizer steps. */
  steps: withDefault(Count, 100),
  lr: withDefault(NonNegative, 2e-4),
  schedule: withDefault(ScheduleKind, "cosine" as const),
  /** Optimizer steps of linear warm-up. */
  warmup: withDefault(Schema.Int.check(Schema.isGreaterThanOrEqualTo(0)), 0),
  /** Rows of a micro-batch; an optimizer step takes batchSize · accumulation rows. */
  batchSize: withDefault(Count, 2),
  accumulation: withDefault(Count, 8),
  /** Largest gradient norm; 0 turns clipping off. */
  clip: withDefault(NonNegative, 1),
  weightDecay: withDefault(NonNegative, 0),
  betas: withDefault(Schema.Tuple([Beta, Beta]), [0.9, 0.999] as const),
  eps: withDefault(Positive, 1e-8),
  rank: withDefault(Count, 8),
  alpha: withDefault(Positive, 16),
  seed: withDefault(Schema.Int, 1),
  /** False keeps the rows' order and cycles through them. */
  shuffle: withDefault(Schema.Boolean, true),
  saveEvery: withDefault(Count, 25),
  /** What a pass keeps for backward (default auto: as much as fits). Changes time and memory, never the result. */
  checkpointing: Schema.optionalKey(CheckpointingChoice),
  /**
   * Token budget of a micro-batch: rows are packed into as few as it allows. At least the longest row. Default: rows in
   * their order, with room for the batchSize longest.
   */
  microBatchTokens: Schema.optionalKey(Count)
})
export type SftConfig = typeof SftConfig.Type

export const decodeSftConfig = Schema.decodeUnknownEffect(SftConfig, { onExcessProperty: "error", errors: "all" })

/** Tokens with their mask: what both row formats become. */
export interface TokenRow {
  readonly ids: ReadonlyArray<number>
  /** lossMask[i] says whether predicting ids[i] carries loss; entry 0 is never predicted. */
  readonly lossMask: ReadonlyArray<boolean>
}

export const rowSequence = (row: TokenRow): Sequence => ({ ids: row.ids, loss: (t) => row.lossMask[t] === true })

/** Prompt and completion as one row: loss on the completion and the end token. */
export const completionRow = (
  prompt: ReadonlyArray<number>,
  completion: ReadonlyArray<number>,
  endToken: number | null
): TokenRow => {
  const end = endToken === null ? [] : [endToken]
  const ids = [...prompt, ...completion, ...end]
  return { ids, lossMask: ids.map((_, i) => i >= prompt.length) }
}

export interface SftStep extends StepResult {
  readonly step: number
  readonly lr: number
  readonly seconds: number
}

/** Metric names as in the field. */
export const sftMetrics = (s: SftStep): Record<string, number> => ({
  loss: s.loss,
  grad_norm: s.gradNorm,
  learning_rate: s.lr,
  entropy: s.entropy,
  num_tokens: s.tokens,
  supervised_tokens: s.supervised
})

const Saved = Schema.Struct({ step: Schema.Int })

/** Checks rows before anything is allocated: ids in range, lengths, and some loss in every row. */
export const checkRows = Effect.fnUntraced(function* (
  rows: ReadonlyArray<TokenRow>,
  vocabSize: number,
  positions: number
) {
  if (rows.length === 0) return yield* badInput("there is no row to train on; the data file holds none")
  for (const [i, row] of rows.entries()) {
    const where = `row ${i + 1}`
    if (row.ids.length !== row.lossMask.length)
      return yield* badInput(
        `${where}: ids and loss_mask have ${row.ids.length} and ${row.lossMask.length} entries; they must have the same length`
      )
    const bad = row.ids.find((id) => !(Number.isInteger(id) && id >= 0 && id < vocabSize))
    if (bad !== undefined) return yield* badInput(`${where}: token id ${bad} is outside the vocabulary of ${vocabSize}`)
    if (row.ids.length > positions)
      return yield* badInput(`${where}: ${row.ids.length} tokens exceed the model's ${positions} positions; shorten it`)
    if (!row.lossMask.some((m, t) => m && t > 0)) {
      return yield* invariantBroken(
        "sft",
        "supervised tokens > 0 in every row",
        `${where} has none; give it a completion or a loss_mask with a 1 after the first token`
      )
    }
  }
})

export interface SftInput<E, R> {
  readonly decoder: Decoder
  readonly lora: Lora
  readonly fresh: boolean
  readonly rows: ReadonlyArray<TokenRow>
  readonly config: SftConfig
  readonly stateDirectory: string
  /** The shape of a pass where a plan was made before; default: the first of `sftPassShapes` that fits. */
  readonly pass?: PassShape
  readonly onStart: (firstStep: number) => Effect.Effect<void, E, R>
  readonly onStep: (step: SftStep) => Effect.Effect<void, E, R>
}

/** The passes to try for these rows, in order. */
export const sftPassShapes = (rows: ReadonlyArray<TokenRow>, config: SftConfig): PassShapes => {
  const lengths = rows.map((r) => r.ids.length).sort((a, b) => b - a)
  const longest = lengths[0] ?? 1
  // By default room for the worst micro-batch: the longest rows together.
  const capacity = config.microBatchTokens ?? lengths.slice(0, config.batchSize).reduce((sum, n) => sum + n, 0)
  return passShapes(config.checkpointing ?? "auto", Math.max(longest, capacity), longest)
}

/** Allocates the trainer of an adapter; also what a memory plan counts. */
export const makeSftTrainer = (decoder: Decoder, lora: Lora, config: SftConfig, pass: PassShape, section?: Section) =>
  makeLanguageModelTrainer(
    decoder,
    { lora },
    {
      stage: "sft",
      ...pass,
      packing: config.microBatchTokens === undefined ? "order" : "fewest",
      ...(section === undefined ? {} : { section })
    }
  )

/**
 * Trains `lora` in place. `fresh` initialises A from the seed (B stays zero); pass false for an adapter loaded from disk.
 * `stateDirectory` holds the resumable state; `onStep` is told of every step.
 */
export const trainSft = Effect.fn("Trainer.sft")(function* <E, R>(input: SftInput<E, R>) {
  const { decoder, lora, rows, config } = input
  yield* checkRows(rows, decoder.config.vocabSize, decoder.rope.positions)
  const gpu = yield* Gpu
  const make = (pass: PassShape) => makeSftTrainer(decoder, lora, config, pass)
  const trainer = yield* make(input.pass ?? (yield* choosePass("sft", sftPassShapes(rows, config), make)))
  let step = 0
  if (yield* hasState(input.stateDirectory)) {
    const state = yield* loadState(input.stateDirectory)
    const saved = yield* Schema.decodeUnknownEffect(Saved)(state.json).pipe(
      Effect.mapError(() =>
        ModelError.malformed({
          operation: "resume",
          file: input.stateDirectory,
          message: `${input.stateDirectory} is not a training state; remove it to start anew`
        })
      )
    )
    const n = lora.params.flat.length
    const image = (name: string): Float32Array<ArrayBuffer> =>
      Float32Array.from(state.tensors[name] ?? new Float32Array(0))
    const [params, m, v] = [image("params"), image("m"), image("v")]
    if (params.length !== n || m.length !== n || v.length !== n) {
      return yield* ModelError.malformed({
        operation: "resume",
        file: input.stateDirectory,
        message: `${input.stateDirectory} belongs to another model or rank; remove it to start anew`
      })
    }
    yield* writeOptimizer(trainer.optimizer, { params, m, v })
    step = saved.step
  } else if (input.fresh) {
    yield* gpu.write(lora.params.flat, initialLora(decoder.config, lora.rank, uniforms(config.seed, 2)))
  }
  yield* input.onStart(step)
  const perStep = config.batchSize * config.accumulation
  while (step < config.steps) {
    const started = yield* Clock.currentTimeMillis
    const sequences = batchIndices(rows.length, perStep, step, config.seed, config.shuffle).flatMap((i) =>
      rows[i] ? [rowSequence(rows[i])] : []
    )
    const lr = learningRate(config.schedule, config.lr, step, config.steps, config.warmup)
    const result = yield* trainer.step(
      sequences,
      { lr, betas: config.betas, eps: config.eps, weightDecay: config.weightDecay, clip: config.clip },
      step + 1
    )
    step++
    const now = yield* Clock.currentTimeMillis
    yield* input.onStep({ ...result, step, lr, seconds: (now - started) / 1000 })
    // Saved after it was told: a kill in between repeats the step, and a log line is never missing.
    if (step % config.saveEvery === 0 && step < config.steps) {
      yield* saveState(input.stateDirectory, { tensors: yield* readOptimizer(trainer.optimizer), json: { step } })
    }
  }
}, Effect.scoped)
