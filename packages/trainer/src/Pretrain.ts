/**
 * Full-parameter training of a small base model from scratch on documents. Resumable: the state (weights, moments, step)
 * is saved every `saveEvery` steps, and batches follow from the step number alone.
 */

import { Gpu } from "@srcode/gpu"
import {
  allocRope,
  type Decoder,
  flatLength,
  hasState,
  initialFlat,
  loadState,
  type ModelConfig,
  ModelError,
  type Sequence,
  saveState,
  windowsOf,
  writeConfig,
  writeFlat
} from "@srcode/model"
import { Clock, Effect, FileSystem, Schema } from "effect"
import { choosePass, type PassShape, passShapes } from "./Checkpointing.ts"
import { makeLanguageModelTrainer, type StepResult, unusableSequence } from "./LanguageModelStep.ts"
import { readOptimizer, writeOptimizer } from "./Optimizer.ts"
import { batchIndices, normals } from "./Random.ts"
import { learningRate } from "./Schedule.ts"
import { badInput } from "./TrainerError.ts"

export interface PretrainOptions {
  readonly steps: number
  /** Documents an optimizer step. */
  readonly batchSize: number
  readonly lr: number
  readonly warmup: number
  readonly weightDecay: number
  readonly clip: number
  readonly seed: number
  readonly saveEvery: number
  /** Tokens a micro-batch. */
  readonly capacity: number
}

export const defaultPretrain: PretrainOptions = {
  steps: 1500,
  batchSize: 32,
  lr: 3e-3,
  warmup: 40,
  weightDecay: 0.01,
  clip: 1,
  seed: 1,
  saveEvery: 50,
  capacity: 4096
}

/** The embedded model's shape: 456 k parameters at a vocabulary of 512. */
export const tinyCoderConfig = (vocabSize: number, endToken: number): ModelConfig => ({
  modelType: "qwen2",
  hiddenSize: 96,
  intermediateSize: 256,
  numLayers: 4,
  numHeads: 4,
  numKeyValueHeads: 2,
  headDim: 24,
  vocabSize,
  maxPositionEmbeddings: 1024,
  rmsNormEps: 1e-6,
  ropeTheta: 10_000,
  ropeScaling: null,
  tieWordEmbeddings: true,
  attentionBias: true,
  qkNorm: false,
  eosTokenIds: [endToken],
  bosTokenId: null
})

export interface PretrainProgress extends StepResult {
  readonly step: number
  readonly lr: number
  readonly seconds: number
}

const Saved = Schema.Struct({ step: Schema.Int })

export interface PretrainInput {
  readonly config: ModelConfig
  readonly documents: ReadonlyArray<ArrayLike<number>>
  readonly directory: string
  readonly options: PretrainOptions
  readonly onStep: (progress: PretrainProgress) => Effect.Effect<void>
}

/**
 * Trains on `documents` (token ids, the end token included) and writes `config.json` and `model.safetensors` to
 * `directory`; working state goes to `directory/state` and is removed at the end.
 */
export const pretrain = Effect.fn("Trainer.pretrain")(function* (input: PretrainInput) {
  const { config, documents, directory, options } = input
  if (documents.length === 0) return yield* badInput("there is no document to train on")
  if (config.qkNorm) {
    return yield* badInput(
      `${config.modelType} cannot be trained in all parameters: its q and k norms are frozen; train an adapter`
    )
  }
  const limit = Math.min(options.capacity, config.maxPositionEmbeddings)
  for (const [i, document] of documents.entries()) {
    const why = unusableSequence(document, limit, config.vocabSize)
    if (why !== undefined) return yield* badInput(`document ${i + 1} ${why}`)
  }
  const longest = documents.reduce((max, d) => Math.max(max, d.length), 0)
  if (longest < 2) return yield* badInput("no document has two tokens; there is nothing to predict")
  const gpu = yield* Gpu
  const fs = yield* FileSystem.FileSystem
  const flat = yield* gpu.alloc("params", "f32", flatLength(config))
  const decoder: Decoder = { config, weights: windowsOf(config, flat), rope: yield* allocRope(config, longest) }
  const make = (pass: PassShape) => makeLanguageModelTrainer(decoder, { flat }, { stage: "pretrain", ...pass })
  const trainer = yield* make(yield* choosePass("pretrain", passShapes("auto", options.capacity, longest), make))
  const stateDirectory = `${directory}/state`
  let step = 0
  if (yield* hasState(stateDirectory)) {
    const state = yield* loadState(stateDirectory)
    const refused = (what: string) =>
      ModelError.malformed({
        operation: "resume",
        file: stateDirectory,
        message: `${stateDirectory} ${what}; remove it to start anew`
      })
    step = (yield* Schema.decodeUnknownEffect(Saved)(state.json).pipe(
      Effect.mapError(() => refused("is not a training state"))
    )).step
    const image = (name: string): Float32Array<ArrayBuffer> =>
      Float32Array.from(state.tensors[name] ?? new Float32Array(0))
    const [params, m, v] = [image("params"), image("m"), image("v")]
    if ([params, m, v].some((tensor) => tensor.length !== flat.length))
      return yield* refused("belongs to a model of another shape")
    yield* writeOptimizer(trainer.optimizer, { params, m, v })
  } else {
    yield* gpu.write(flat, initialFlat(config, normals(options.seed, 1)))
  }
  while (step < options.steps) {
    const started = yield* Clock.currentTimeMillis
    const sequences = batchIndices(documents.length, options.batchSize, step, options.seed, true).map(
      (i): Sequence => ({ ids: documents[i] ?? [], loss: () => true })
    )
    const lr = learningRate("cosine", options.lr, step, options.steps, options.warmup)
    const result = yield* trainer.step(
      sequences,
      { lr, betas: [0.9, 0.95], eps: 1e-8, weightDecay: options.weightDecay, clip: options.clip },
      step + 1
    )
    step++
    if (step % options.saveEvery === 0 && step < options.steps)
      yield* saveState(stateDirectory, { tensors: yield* readOptimizer(trainer.optimizer), json: { step } })
    const now = yield* Clock.currentTimeMillis
    yield* input.onStep({ ...result, step, lr, seconds: (now - started) / 1000 })
  }
  yield* writeConfig(directory, config)
  yield* writeFlat(directory, config, yield* gpu.read(flat), "F32")
  yield* fs.remove(stateDirectory, { recursive: true, force: true }).pipe(Effect.ignore)
}, Effect.scoped)
