/**
 * A model folder opened: configuration, tokenizer, and its weights on the device. Weights live in the caller's Scope.
 */

import { Gpu, type HeldIn16, makeOps, planMemory, requireMemory } from "@srcode/gpu"
import { Effect } from "effect"
import { loadConfig, type ModelConfig } from "./Config.ts"
import {
  allocWeights,
  choosePrecision,
  type DtypeChoice,
  fillWeights,
  type Precision,
  type Quantization
} from "./Loading.ts"
import { allocLora, fusedLinears, type Lora, type LoraShape, packLora, uploadLora } from "./Lora.ts"
import { ModelError } from "./ModelError.ts"
import { checkModelTensors, openModelWeights } from "./ModelWeights.ts"
import { type Adapter, type LoraKey, type LoraPair, readAdapter } from "./Peft.ts"
import { allocRope } from "./Rope.ts"

import type { SafetensorsFile } from "./Safetensors.ts"

import { loadTokenizer } from "./Tokenizer.ts"
import type { Decoder } from "./Transformer.ts"

export interface Model {
  readonly directory: string
  readonly config: ModelConfig
  readonly precision: Precision
  readonly decoder: Decoder
}

export interface LoadOptions {
  /** Bounds the positions of a sequence; default: what the model allows, at most 4096. */
  readonly maxTokens?: number
  readonly dtype?: DtypeChoice
  readonly quantize?: Quantization
  /** How frozen weights of 16 bits lie; default what a calibration of the device found. */
  readonly weights16?: HeldIn16
  /** Hears of checkpoint bytes, done and in all. */
  readonly onProgress?: (done: number, total: number) => Effect.Effect<void>
}

/** A checkpoint opened and checked against its config; nothing is on the device yet. Usable as long as the Scope. */
export interface OpenCheckpoint {
  readonly directory: string
  readonly config: ModelConfig
  readonly precision: Precision
  readonly positions: number
  readonly file: SafetensorsFile
}

/** Opens a Hugging Face folder and checks header, shapes and options. */
export const openCheckpoint = Effect.fn("Model.open")(function* (directory: string, options: LoadOptions = {}) {
  const gpu = yield* Gpu
  const config = yield* loadConfig(directory)
  if (config.headDim % 4 !== 0) {
    return yield* ModelError.unsupported({
      operation: "load model",
      file: `${directory}/config.json`,
      option: "head_dim",
      message: `${directory}/config.json: head_dim ${config.headDim} is not supported; the attention kernels take multiples of 4`
    })
  }
  const file = yield* openModelWeights(directory)
  yield* checkModelTensors(config, file)
  const weights16 = options.weights16 ?? gpu.info.matmul?.weights16
  const choice = { dtype: options.dtype ?? "auto", quantize: options.quantize ?? "none", weights16 }
  const precision = choosePrecision(config, file, gpu.info.features, choice)
  const positions = Math.min(options.maxTokens ?? 4096, config.maxPositionEmbeddings)
  const checkpoint: OpenCheckpoint = { directory, config, precision, positions, file }
  return checkpoint
})

/** Allocates a decoder for a checkpoint, its weights zero: what a memory plan counts, and what loading fills. */
export const allocDecoder = Effect.fnUntraced(function* ({ config, precision, positions }: OpenCheckpoint) {
  const allocated = yield* allocWeights(config, precision)
  const decoder: Decoder = { config, weights: allocated.weights, rope: yield* allocRope(config, positions) }
  return { decoder, allocated }
})

/** Streams the checkpoint's weights onto the device. */
export const loadCheckpoint = Effect.fn("Model.loadCheckpoint")(function* (
  checkpoint: OpenCheckpoint,
  onProgress?: LoadOptions["onProgress"]
) {
  const { directory, config, precision } = checkpoint
  const plan = yield* planMemory((section) => section("weights", allocDecoder(checkpoint)))
  yield* requireMemory(`the weights of ${directory}`, plan)
  const { decoder, allocated } = yield* allocDecoder(checkpoint)
  yield* fillWeights(config, checkpoint.file, allocated, onProgress)
  const model: Model = { directory, config, precision, decoder }
  return model
})

/** Opens a Hugging Face folder and loads its weights. They live in the caller's Scope. */
export const loadModel = Effect.fn("Model.load")(function* (directory: string, options: LoadOptions = {}) {
  return yield* loadCheckpoint(yield* openCheckpoint(directory, options), options.onProgress)
})

/** Opens the tokenizer of a model folder; warns when it knows tokens that the model has no rows for. */
export const loadModelTokenizer = Effect.fn("Model.loadTokenizer")(function* (model: Model) {
  const tokenizer = yield* loadTokenizer(model.directory)
  if (tokenizer.vocabSize > model.config.vocabSize) {
    yield* Effect.logWarning(
      `${model.directory}: the tokenizer has ${tokenizer.vocabSize} tokens, the model ${model.config.vocabSize}; texts with tokens beyond are refused`
    )
  }
  return tokenizer
})

/** Reads a PEFT folder and puts it on the device. */
export const loadAdapter = Effect.fn("Model.loadAdapter")(function* (model: Model, directory: string) {
  return yield* uploadLora(model.config, yield* readAdapter(directory, model.config))
})

/** Adds scale · B A to the base weights on the device: the adapter becomes part of the model. Quantised weights refuse. */
export const mergeLora = Effect.fn("Model.mergeLora")(function* (decoder: Decoder, lora: Lora) {
  const gpu = yield* Gpu
  const ops = makeOps(gpu.info)
  const { storage } = decoder.weights.layers[0]?.o ?? decoder.weights.embed
  if (storage === "int8" || storage === "int4") {
    return yield* ModelError.unsupported({
      operation: "merge adapter",
      option: storage,
      message: `an adapter cannot be merged into weights held in ${storage}; load without --quantize, or merge first with srcode export merged`
    })
  }
  yield* gpu.submit("merge adapter", (tape) => {
    decoder.weights.layers.forEach((w, i) => {
      const parts = lora.params.layers[i]
      if (parts === undefined) return
      for (const fused of fusedLinears) {
        const { a, b, width } = parts[fused]
        ops.addLowRank(tape, { w: w[fused], b, a, width, scale: lora.scale })
      }
    })
  })
})

/**
 * One adapter that equals two applied after each other (the second on the merge of the first): ranks add, and the scales
 * move into B, so alpha equals the rank.
 */
export const combineAdapters = (
  first: Adapter,
  second: Adapter
): Pick<Adapter, "rank" | "alpha" | "targetModules" | "tensors"> => {
  const rank = first.rank + second.rank
  const tensors = new Map<LoraKey, LoraPair>()
  const keys = new Set([...first.tensors.keys(), ...second.tensors.keys()])
  for (const key of keys) {
    const [x, y] = [first.tensors.get(key), second.tensors.get(key)]
    const some = x ?? y
    if (some === undefined) continue
    const inner = some.a.length / (x ? first.rank : second.rank)
    const out = some.b.length / (x ? first.rank : second.rank)
    const a = new Float32Array(rank * inner)
    const b = new Float32Array(out * rank)
    if (x) a.set(x.a, 0)
    if (y) a.set(y.a, first.rank * inner)
    for (let row = 0; row < out; row++) {
      for (let j = 0; j < first.rank; j++) b[row * rank + j] = first.scale * (x?.b[row * first.rank + j] ?? 0)
      for (let j = 0; j < second.rank; j++)
        b[row * rank + first.rank + j] = second.scale * (y?.b[row * second.rank + j] ?? 0)
    }
    tensors.set(key, { a, b })
  }
  const modules = new Set([...first.targetModules, ...second.targetModules])
  return { rank, alpha: rank, targetModules: [...modules], tensors }
}

/** A fresh adapter on the device from host pairs (for example a checkpoint's). */
export const loraFromPairs = Effect.fnUntraced(function* (
  config: ModelConfig,
  shape: LoraShape,
  pairs: ReadonlyMap<LoraKey, LoraPair>
) {
  const gpu = yield* Gpu
  const lora = yield* allocLora(config, shape)
  yield* gpu.write(lora.params.flat, packLora(config, shape.rank, pairs))
  return lora
})
