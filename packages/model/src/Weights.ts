/**
 * A decoder's weights on the device, fused as the kernels want them: q, k, v in one matrix, gate and up in another.
 *
 * Frozen weights are a matrix each, in the storage that was chosen at loading (Loading.ts). For full-parameter training
 * they are f32 windows of one flat buffer, so that gradients, moments and the optimiser's single dispatch line up with
 * them. Layout (row-major, [out, in]): qkv [(H + 2G) D, C], gateUp [2F, C], o [C, H D], down [C, F]; norms and biases
 * are f32 vectors; qkNorm [2, D] holds the norm of query heads, then that of key heads, as in Qwen3.
 */

import { alignElements, denseMatrix, type Matrix, type Tensor, window } from "@srcode/gpu"
import { Effect, type FileSystem } from "effect"
import { type ModelConfig, tensorShapes } from "./Config.ts"
import type { ModelError } from "./ModelError.ts"
import { requireFinite, type SafetensorsFile } from "./Safetensors.ts"
import { type StoredDtype, type TensorToWrite, writeSafetensors } from "./SafetensorsWriter.ts"

type F = Tensor<"f32">

export interface LayerWeights {
  readonly norm1: F
  readonly qkv: Matrix
  readonly qkvBias: F | null
  readonly qkNorm: F | null
  readonly o: Matrix
  readonly norm2: F
  readonly gateUp: Matrix
  readonly down: Matrix
}

export interface Weights {
  readonly embed: Matrix
  readonly layers: ReadonlyArray<LayerWeights>
  readonly norm: F
  /** The same tensor as `embed` where the model ties them. */
  readonly head: Matrix
}

/** One matrix or vector on the device and the Hugging Face tensors it is made of, in row order. */
export interface WeightPart {
  readonly key: string
  /** `linear` matrices may be quantised; embedding and head may not. */
  readonly kind: "linear" | "table" | "vector"
  readonly rows: number
  /** 1 for vectors. */
  readonly cols: number
  readonly length: number
  readonly sources: ReadonlyArray<{ readonly name: string; readonly shape: ReadonlyArray<number> }>
}

/** What a model of this configuration consists of, in a fixed order (also that of the flat buffer). */
export const weightParts = (config: ModelConfig): ReadonlyArray<WeightPart> => {
  const shapes = tensorShapes(config)
  const part = (key: string, ...names: ReadonlyArray<string>): WeightPart => {
    const sources = names.map((name) => ({ name, shape: shapes.get(name) ?? [] }))
    const rows = sources.reduce((sum, { shape }) => sum + (shape[0] ?? 0), 0)
    const cols = sources[0]?.shape[1]
    const kind = cols === undefined ? "vector" : key === "embed" || key === "head" ? "table" : "linear"
    return { key, kind, rows, cols: cols ?? 1, length: rows * (cols ?? 1), sources }
  }
  const parts = [part("embed", "model.embed_tokens.weight")]
  for (let i = 0; i < config.numLayers; i++) {
    const at = `model.layers.${i}`
    const attention = (kind: string) => ["q", "k", "v"].map((p) => `${at}.self_attn.${p}_proj.${kind}`)
    parts.push(part(`${i}.norm1`, `${at}.input_layernorm.weight`), part(`${i}.qkv`, ...attention("weight")))
    if (config.attentionBias) parts.push(part(`${i}.qkvBias`, ...attention("bias")))
    if (config.qkNorm) {
      parts.push(part(`${i}.qkNorm`, `${at}.self_attn.q_norm.weight`, `${at}.self_attn.k_norm.weight`))
    }
    parts.push(
      part(`${i}.o`, `${at}.self_attn.o_proj.weight`),
      part(`${i}.norm2`, `${at}.post_attention_layernorm.weight`),
      part(`${i}.gateUp`, `${at}.mlp.gate_proj.weight`, `${at}.mlp.up_proj.weight`),
      part(`${i}.down`, `${at}.mlp.down_proj.weight`)
    )
  }
  parts.push(part("norm", "model.norm.weight"))
  if (!config.tieWordEmbeddings) parts.push(part("head", "lm_head.weight"))
  return parts
}

/** Puts parts together; `matrix` and `vector` give the device's part of a key. */
export const assembleWeights = (
  config: ModelConfig,
  matrix: (key: string) => Matrix,
  vector: (key: string) => F
): Weights => {
  const embed = matrix("embed")
  return {
    embed,
    layers: Array.from({ length: config.numLayers }, (_, i) => ({
      norm1: vector(`${i}.norm1`),
      qkv: matrix(`${i}.qkv`),
      qkvBias: config.attentionBias ? vector(`${i}.qkvBias`) : null,
      qkNorm: config.qkNorm ? vector(`${i}.qkNorm`) : null,
      o: matrix(`${i}.o`),
      norm2: vector(`${i}.norm2`),
      gateUp: matrix(`${i}.gateUp`),
      down: matrix(`${i}.down`)
    })),
    norm: vector("norm"),
    head: config.tieWordEmbeddings ? embed : matrix("head")
  }
}

/** Windows of `flat` by part, each on an aligned start. */
export const windowsOf = (config: ModelConfig, flat: F): Weights => {
  const at = new Map<string, { readonly part: WeightPart; readonly data: F }>()
  let offset = 0
  for (const part of weightParts(config)) {
    at.set(part.key, { part, data: window(flat, offset, part.length, part.key) })
    offset += alignElements(part.length)
  }
  const vector = (key: string): F => at.get(key)?.data ?? flat
  const matrix = (key: string): Matrix => {
    const found = at.get(key)
    return denseMatrix(vector(key), found?.part.rows ?? 0, found?.part.cols ?? 0)
  }
  return assembleWeights(config, matrix, vector)
}

/** Elements of a flat buffer for this configuration. */
export const flatLength = (config: ModelConfig): number =>
  weightParts(config).reduce((sum, part) => sum + alignElements(part.length), 0)

/** Host copies of all parts, from a checkpoint; every value is checked to be finite. */
const readPart = Effect.fnUntraced(function* (file: SafetensorsFile, part: WeightPart) {
  const data = new Float32Array(part.length)
  let at = 0
  for (const { name, shape } of part.sources) {
    const values = yield* file.readShape(name, shape)
    yield* requireFinite("load weights", name, values)
    data.set(values, at)
    at += values.length
  }
  return data
})

/** The flat host image of a checkpoint, in the order of `windowsOf`. */
export const readFlat = Effect.fn("Weights.readFlat")(function* (config: ModelConfig, file: SafetensorsFile) {
  const flat = new Float32Array(flatLength(config))
  let offset = 0
  for (const part of weightParts(config)) {
    flat.set(yield* readPart(file, part), offset)
    offset += alignElements(part.length)
  }
  return flat
})

/** Cuts a flat host image back into Hugging Face tensors. */
export const flatToTensors = (config: ModelConfig, flat: Float32Array): ReadonlyArray<TensorToWrite> => {
  const out: Array<TensorToWrite> = []
  let offset = 0
  for (const part of weightParts(config)) {
    let at = offset
    for (const { name, shape } of part.sources) {
      const length = shape.reduce((a, b) => a * b, 1)
      out.push({ name, shape, data: flat.slice(at, at + length) })
      at += length
    }
    offset += alignElements(part.length)
  }
  return out
}

/** Writes `model.safetensors` from a flat host image. */
export const writeFlat = (
  directory: string,
  config: ModelConfig,
  flat: Float32Array,
  dtype: StoredDtype
): Effect.Effect<void, ModelError, FileSystem.FileSystem> =>
  writeSafetensors(`${directory}/model.safetensors`, flatToTensors(config, flat), { dtype })

/** Random initialisation as in GPT-2 and Qwen2: normal(0, 0.02), projections into the residual scaled by 1/√(2L); norms 1, biases 0. */
export const initialFlat = (config: ModelConfig, normal: () => number): Float32Array<ArrayBuffer> => {
  const flat = new Float32Array(flatLength(config))
  let offset = 0
  for (const { key, length } of weightParts(config)) {
    const kind = key.split(".").at(-1) ?? key
    const std = kind === "o" || kind === "down" ? 0.02 / Math.sqrt(2 * config.numLayers) : 0.02
    for (let i = 0; i < length; i++) {
      flat[offset + i] = /^norm|Norm$/.test(kind) ? 1 : kind === "qkvBias" ? 0 : std * normal()
    }
    offset += alignElements(length)
  }
  return flat
}
