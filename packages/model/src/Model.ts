/**
 * A model folder opened: configuration, tokenizer, and its weights on the device. Weights live in the caller's Scope.
 */

import { Gpu, gpuError, makeOps, OutOfMemory } from "@srcode/gpu"
import { Effect } from "effect"
import { loadConfig, type ModelConfig } from "./Config.ts"
import { allocLora, type Lora, type LoraShape, packLora, uploadLora } from "./Lora.ts"
import { ModelError } from "./ModelError.ts"
import { checkModelTensors, openModelWeights } from "./ModelWeights.ts"
import { type Adapter, type LoraKey, type LoraPair, readAdapter } from "./Peft.ts"
import { allocRope } from "./Rope.ts"
import { loadTokenizer } from "./Tokenizer.ts"
import type { Decoder } from "./Transformer.ts"
import { loadWeights, weightParts } from "./Weights.ts"

export interface Model {
  readonly directory: string
  readonly config: ModelConfig
  readonly decoder: Decoder
}

/** Opens a Hugging Face folder. `maxTokens` bounds the positions of a sequence (default: what the model allows, at most 4096). */
export const loadModel = Effect.fn("Model.load")(function* (
  directory: string,
  options: { readonly maxTokens?: number } = {}
) {
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
  const bytes = weightParts(config).reduce((sum, part) => sum + part.length * 4, 0)
  const { live, budget } = yield* gpu.memory
  if (live + bytes > budget) {
    return yield* gpuError(
      new OutOfMemory({
        label: `the weights of ${directory}`,
        bytes,
        live,
        limit: budget,
        limitName: "the memory budget"
      })
    )
  }
  const weights = yield* loadWeights(config, file)
  const positions = Math.min(options.maxTokens ?? 4096, config.maxPositionEmbeddings)
  const model: Model = { directory, config, decoder: { config, weights, rope: yield* allocRope(config, positions) } }
  return model
})

/** Opens the tokenizer of a model folder and checks it against the model's vocabulary. */
export const loadModelTokenizer = (model: Model): ReturnType<typeof loadTokenizer> => loadTokenizer(model.directory)

/** Reads a PEFT folder and puts it on the device. */
export const loadAdapter = Effect.fn("Model.loadAdapter")(function* (model: Model, directory: string) {
  return yield* uploadLora(model.config, yield* readAdapter(directory, model.config))
})

/** Adds scale · B A to the base weights on the device: the adapter becomes part of the model. */
export const mergeLora = Effect.fn("Model.mergeLora")(function* (decoder: Decoder, lora: Lora) {
  const gpu = yield* Gpu
  const ops = makeOps(gpu.info)
  yield* gpu.submit("merge adapter", (tape) => {
    decoder.weights.layers.forEach((w, i) => {
      const parts = lora.params.layers[i]
      if (parts === undefined) return
      for (const [weight, part, columns] of [
        [w.qkv, parts.qkv, decoder.config.hiddenSize],
        [w.o, parts.o, decoder.config.numHeads * decoder.config.headDim],
        [w.gateUp, parts.gateUp, decoder.config.hiddenSize],
        [w.down, parts.down, decoder.config.intermediateSize]
      ] as const) {
        ops.matmulNN(tape, {
          a: part.b,
          b: part.a,
          out: weight,
          m: weight.length / columns,
          n: columns,
          k: part.width,
          alpha: lora.scale,
          accumulate: true
        })
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
