/**
 * Random Qwen2, Llama and Qwen3 checkpoints of awkward shapes in Hugging Face's layout. Names, shapes and `config.json` are written out
 * here and do not come from the package under test.
 */
import { Effect, FileSystem } from "effect"
import { writeSafetensors } from "../../src/index.ts"
import { seeded } from "../support.ts"
import type { Scaling } from "./algebra.ts"
import type { ReferenceConfig, ReferenceLora } from "./decoder.ts"

export interface Shape {
  readonly name: string
  readonly hidden: number
  readonly intermediate: number
  readonly layers: number
  readonly heads: number
  readonly kvHeads: number
  readonly headDim: number
  readonly vocab: number
  readonly tied: boolean
  readonly bias: boolean
  readonly eos?: ReadonlyArray<number>
  readonly theta?: number
  /** Default "qwen2". */
  readonly family?: "qwen2" | "llama" | "qwen3"
  readonly scaling?: Scaling
}

/** Grouped queries 1, 2 and 7, odd vocabularies around the 64-wide chunks, sizes that no tile divides. */
export const awkwardShapes: ReadonlyArray<Shape> = [
  shape("7 heads on 1, tied, bias", 28, 37, 1, 7, 1, 4, 131, true, true),
  shape("3 heads on 3, untied, bias, 3 layers", 36, 50, 3, 3, 3, 12, 97, false, true),
  shape("4 heads on 2, wider than hidden, tied, no bias, 3 layers", 30, 41, 3, 4, 2, 8, 203, true, false),
  shape("2 heads on 1 of 24, untied, no bias", 44, 31, 1, 2, 1, 24, 65, false, false),
  shape("14 heads on 2, odd hidden size, vocabulary below a chunk", 35, 23, 1, 14, 2, 4, 33, false, true),
  shape("all sizes multiples of 8", 32, 48, 2, 4, 2, 8, 128, true, true)
]

function shape(
  name: string,
  hidden: number,
  intermediate: number,
  layers: number,
  heads: number,
  kvHeads: number,
  headDim: number,
  vocab: number,
  tied: boolean,
  bias: boolean
): Shape {
  return { name, hidden, intermediate, layers, heads, kvHeads, headDim, vocab, tied, bias }
}

/** Positions that wrap within a few tokens: every pair of frequencies is scaled, blended or kept, in reach of the tests. */
const linear4: Scaling = { type: "linear", factor: 4 }
const blended: Scaling = {
  type: "llama3",
  factor: 8,
  low_freq_factor: 1,
  high_freq_factor: 4,
  original_max_position_embeddings: 24
}

/** The families beside Qwen2, and its own scaled positions. */
export const familyShapes: ReadonlyArray<Shape> = [
  {
    ...shape("llama, 7 heads on 1, linear scaling, untied", 28, 37, 2, 7, 1, 4, 131, false, false),
    family: "llama",
    theta: 100_000,
    scaling: linear4
  },
  {
    ...shape("llama, 3 heads on 3, blended scaling, tied, 3 layers", 36, 50, 3, 3, 3, 12, 97, true, false),
    family: "llama",
    theta: 500,
    scaling: blended
  },
  {
    ...shape("llama, 4 heads on 2, base 1e6, vocabulary past a chunk", 32, 45, 2, 4, 2, 8, 67, false, false),
    family: "llama",
    theta: 1e6
  },
  {
    ...shape("qwen2, 4 heads on 2, linear scaling, tied, bias", 24, 40, 2, 4, 2, 8, 101, true, true),
    scaling: { type: "linear", factor: 2.5 }
  },
  {
    ...shape("qwen3, 4 heads on 2 of 20, wider than hidden, untied", 30, 41, 3, 4, 2, 20, 203, false, false),
    family: "qwen3"
  },
  {
    ...shape("qwen3, 7 heads on 1, narrower than hidden, tied", 64, 33, 2, 7, 1, 8, 129, true, false),
    family: "qwen3",
    theta: 1e6
  },
  {
    ...shape("qwen3, 2 heads on 2 of 136, blended scaling, tied", 36, 24, 1, 2, 2, 136, 65, true, false),
    family: "qwen3",
    scaling: blended
  }
]

/** One small model for tests that are not about shapes. */
export const plain: Shape = shape("plain", 24, 40, 2, 4, 2, 8, 101, true, true)

export const normalsOf = (seed: number): (() => number) => {
  const next = seeded(seed)
  return () => Math.sqrt(-2 * Math.log(1 - next())) * Math.cos(2 * Math.PI * next())
}

export const referenceConfig = (s: Shape): ReferenceConfig => ({
  hiddenSize: s.hidden,
  intermediateSize: s.intermediate,
  numLayers: s.layers,
  numHeads: s.heads,
  numKeyValueHeads: s.kvHeads,
  headDim: s.headDim,
  vocabSize: s.vocab,
  rmsNormEps: 1e-6,
  ropeTheta: s.theta ?? 10_000,
  ropeScaling: s.scaling ?? null,
  tieWordEmbeddings: s.tied,
  attentionBias: s.bias,
  qkNorm: s.family === "qwen3"
})

/** `[out, in]` of the seven linear modules. */
export const moduleShapes = (s: Shape): ReadonlyMap<string, readonly [number, number]> =>
  new Map([
    ["self_attn.q_proj", [s.heads * s.headDim, s.hidden]],
    ["self_attn.k_proj", [s.kvHeads * s.headDim, s.hidden]],
    ["self_attn.v_proj", [s.kvHeads * s.headDim, s.hidden]],
    ["self_attn.o_proj", [s.hidden, s.heads * s.headDim]],
    ["mlp.gate_proj", [s.intermediate, s.hidden]],
    ["mlp.up_proj", [s.intermediate, s.hidden]],
    ["mlp.down_proj", [s.hidden, s.intermediate]]
  ])

/** Random tensors by name; scales keep every part of the arithmetic at work (softmaxes neither flat nor one-hot). */
export const randomTensors = (s: Shape, seed: number) => {
  const normal = normalsOf(seed)
  const tensors = new Map<string, { readonly shape: ReadonlyArray<number>; readonly data: Float32Array<ArrayBuffer> }>()
  const add = (name: string, size: ReadonlyArray<number>, std: number, mean = 0): void => {
    const length = size.reduce((a, b) => a * b, 1)
    tensors.set(name, { shape: size, data: Float32Array.from({ length }, () => mean + std * normal()) })
  }
  add("model.embed_tokens.weight", [s.vocab, s.hidden], 0.5)
  for (let i = 0; i < s.layers; i++) {
    const at = `model.layers.${i}`
    add(`${at}.input_layernorm.weight`, [s.hidden], 0.2, 1)
    add(`${at}.post_attention_layernorm.weight`, [s.hidden], 0.2, 1)
    if (s.family === "qwen3") {
      add(`${at}.self_attn.q_norm.weight`, [s.headDim], 0.3, 1.2)
      add(`${at}.self_attn.k_norm.weight`, [s.headDim], 0.3, 1.2)
    }
    for (const [module, [out, inner]] of moduleShapes(s)) {
      add(`${at}.${module}.weight`, [out, inner], 1 / Math.sqrt(inner))
      if (s.bias && /[qkv]_proj$/.test(module)) add(`${at}.${module}.bias`, [out], 0.3)
    }
  }
  add("model.norm.weight", [s.hidden], 0.2, 1)
  if (!s.tied) add("lm_head.weight", [s.vocab, s.hidden], 0.4)
  return tensors
}

/** Writes `config.json` and `model.safetensors`; returns the tensors as written. */
export const writeCheckpoint = Effect.fn("test.writeCheckpoint")(function* (directory: string, s: Shape, seed: number) {
  const fs = yield* FileSystem.FileSystem
  const tensors = randomTensors(s, seed)
  const family = s.family ?? "qwen2"
  yield* fs.makeDirectory(directory, { recursive: true })
  yield* fs.writeFileString(
    `${directory}/config.json`,
    JSON.stringify({
      architectures: [{ qwen2: "Qwen2ForCausalLM", llama: "LlamaForCausalLM", qwen3: "Qwen3ForCausalLM" }[family]],
      model_type: family,
      hidden_act: "silu",
      hidden_size: s.hidden,
      intermediate_size: s.intermediate,
      num_hidden_layers: s.layers,
      num_attention_heads: s.heads,
      num_key_value_heads: s.kvHeads,
      head_dim: s.headDim,
      vocab_size: s.vocab,
      max_position_embeddings: 256,
      rms_norm_eps: 1e-6,
      ...(s.scaling ? { rope_scaling: s.scaling } : {}),
      rope_theta: s.theta ?? 10_000,
      tie_word_embeddings: s.tied,
      attention_bias: s.bias,
      eos_token_id: s.eos ?? [],
      bos_token_id: null
    })
  )
  yield* writeSafetensors(
    `${directory}/model.safetensors`,
    [...tensors].map(([name, tensor]) => ({ name, ...tensor }))
  )
  return new Map([...tensors].map(([name, { data }]) => [name, data]))
})

export const allModules = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"] as const

/** A random adapter with B away from zero, keyed `layers.{i}.{module}`. */
export const randomPairs = (
  s: Shape,
  rank: number,
  seed: number,
  modules: ReadonlyArray<string> = allModules
): Map<`layers.${number}.${(typeof allModules)[number]}`, { a: Float32Array; b: Float32Array }> => {
  const normal = normalsOf(seed)
  const pairs = new Map<
    `layers.${number}.${(typeof allModules)[number]}`,
    { a: Float32Array<ArrayBuffer>; b: Float32Array<ArrayBuffer> }
  >()
  const shapes = moduleShapes(s)
  for (let i = 0; i < s.layers; i++) {
    for (const module of allModules) {
      const [out, inner] = shapes.get(`self_attn.${module}`) ?? shapes.get(`mlp.${module}`) ?? [0, 0]
      if (!modules.includes(module)) continue
      const a = Float32Array.from({ length: rank * inner }, () => normal() / Math.sqrt(inner))
      const b = Float32Array.from({ length: out * rank }, () => 0.2 * normal())
      pairs.set(`layers.${i}.${module}`, { a, b })
    }
  }
  return pairs
}

export const referenceLora = (
  rank: number,
  scale: number,
  pairs: ReadonlyMap<string, { readonly a: Float32Array; readonly b: Float32Array }>
): ReferenceLora => ({
  rank,
  scale,
  pairs: new Map([...pairs].map(([key, { a, b }]) => [key, { a: Float64Array.from(a), b: Float64Array.from(b) }]))
})

/** Random sequences of the given lengths with about two thirds of the tokens supervised. */
export const randomSequences = (vocab: number, lengths: ReadonlyArray<number>, seed: number) => {
  const next = seeded(seed)
  return lengths.map((length, i) => ({
    ids: Array.from({ length }, () => Math.floor(next() * vocab)),
    loss: (t: number) => (t + i) % 3 !== 0
  }))
}
