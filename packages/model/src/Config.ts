/**
 * A Hugging Face `config.json`, as the engine sees it, and the tensors that must stand beside it. What a family of models
 * has of its own is stated in `architectures/`; this file reads, checks and writes.
 *
 * Options that would change the arithmetic and that the engine does not do are errors that name the option; they are
 * never ignored. Keys that carry no arithmetic are dropped; keys nobody here has heard of are dropped with a warning.
 */
import { Effect, Schema } from "effect"
import { llama } from "./architectures/llama.ts"
import { qwen2 } from "./architectures/qwen2.ts"
import { qwen3 } from "./architectures/qwen3.ts"
import { exists, isRecord, makeDirectory, oneLine, readJsonObject, writeTextAtomic } from "./internal/files.ts"
import {
  type Architecture,
  commonDemands,
  decodeRope,
  encodeRopeScaling,
  HfConfig,
  inertKeys,
  type ModelConfig,
  ModelType
} from "./internal/hf-config.ts"
import { ModelError, quote } from "./ModelError.ts"

export { ModelConfig, ModelType, RopeScaling } from "./internal/hf-config.ts"

const architectures: Readonly<Record<ModelType, Architecture>> = { qwen2, llama, qwen3 }

/** The family of a configuration. */
const architectureOf = (config: ModelConfig): Architecture => architectures[config.modelType]

/** Decodes the parsed `config.json`; `file` only names it in messages. */
export const decodeConfig = Effect.fnUntraced(function* (raw: unknown, file = "config.json") {
  const operation = "read config"
  if (!isRecord(raw)) {
    return yield* ModelError.malformed({ operation, file, message: `${file} must hold a JSON object` })
  }
  const contradiction = (message: string) =>
    ModelError.malformed({ operation, file, message: `${file}: ${message}; take the file that came with the model` })
  const refuse = (option: string, runs: string) =>
    ModelError.unsupported({
      operation,
      file,
      option,
      message: `${file}: ${option} = ${quote(JSON.stringify(raw[option]) ?? "undefined")} is not supported; ${runs}`
    })
  if (raw.model_type === undefined) return yield* contradiction("model_type is missing")
  if (!Schema.is(ModelType)(raw.model_type)) {
    return yield* refuse("model_type", `this engine runs ${ModelType.literals.join(", ")}`)
  }
  const architecture = architectures[raw.model_type]
  const demands = { ...commonDemands, ...architecture.demands }
  for (const [option, harmless] of Object.entries(demands)) {
    if (Object.hasOwn(raw, option) && !harmless(raw[option])) {
      return yield* refuse(option, `this engine runs plain ${raw.model_type} models (silu, full attention, no experts)`)
    }
  }
  const hf = yield* Schema.decodeUnknownEffect(HfConfig)(raw).pipe(
    Effect.mapError((error) => contradiction(oneLine(error)))
  )
  const rope = yield* decodeRope(raw, hf, file)
  const known = [
    ...inertKeys,
    ...Object.keys(demands),
    ...Object.keys(HfConfig.fields),
    "rope_scaling",
    "rope_parameters"
  ]
  const unknown = Object.keys(raw).filter((key) => !known.includes(key))
  if (unknown.length > 0) {
    yield* Effect.logWarning(`${file}: ignoring unknown keys ${unknown.map(quote).join(", ")}`)
  }
  const { defaults } = architecture
  const keyValueHeads = hf.num_key_value_heads === undefined ? defaults.numKeyValueHeads : hf.num_key_value_heads
  const numKeyValueHeads = keyValueHeads ?? hf.num_attention_heads
  if (hf.num_attention_heads % numKeyValueHeads !== 0) {
    return yield* contradiction(
      `num_attention_heads ${hf.num_attention_heads} is not a multiple of num_key_value_heads ${numKeyValueHeads}`
    )
  }
  const givenHeadDim = hf.head_dim ?? defaults.headDim
  if (givenHeadDim === null && hf.hidden_size % hf.num_attention_heads !== 0) {
    return yield* contradiction(
      `hidden_size ${hf.hidden_size} is not a multiple of num_attention_heads ${hf.num_attention_heads} and head_dim is absent`
    )
  }
  const headDim = givenHeadDim ?? hf.hidden_size / hf.num_attention_heads
  if (headDim % 2 !== 0) return yield* contradiction(`head_dim ${headDim} is odd, rotary embeddings need pairs`)
  const eos = hf.eos_token_id === undefined ? defaults.eosTokenIds : (hf.eos_token_id ?? [])
  const config: ModelConfig = {
    modelType: architecture.modelType,
    hiddenSize: hf.hidden_size,
    intermediateSize: hf.intermediate_size,
    numLayers: hf.num_hidden_layers,
    numHeads: hf.num_attention_heads,
    numKeyValueHeads,
    headDim,
    vocabSize: hf.vocab_size,
    maxPositionEmbeddings: hf.max_position_embeddings ?? defaults.maxPositionEmbeddings,
    rmsNormEps: hf.rms_norm_eps ?? defaults.rmsNormEps,
    ropeTheta: rope.theta ?? defaults.ropeTheta,
    ropeScaling: rope.scaling,
    tieWordEmbeddings: hf.tie_word_embeddings ?? defaults.tieWordEmbeddings,
    attentionBias: hf.attention_bias ?? defaults.attentionBias,
    qkNorm: architecture.qkNorm,
    eosTokenIds: typeof eos === "number" ? [eos] : eos,
    bosTokenId: hf.bos_token_id === undefined ? defaults.bosTokenId : hf.bos_token_id
  }
  const beyond = [...config.eosTokenIds, config.bosTokenId ?? 0].find((id) => id >= config.vocabSize)
  if (beyond !== undefined) {
    return yield* contradiction(`token id ${beyond} is outside the vocabulary of ${config.vocabSize}`)
  }
  return config
})

/**
 * Reads `config.json` of a model folder. Where `generation_config.json` lists end-of-sequence ids, those replace the
 * ones of `config.json`, as generation does elsewhere (chat models list two there).
 */
export const loadConfig = Effect.fn("Config.load")(function* (directory: string) {
  const file = `${directory}/config.json`
  const config = yield* readJsonObject("read config", file).pipe(Effect.flatMap((raw) => decodeConfig(raw, file)))
  const generationFile = `${directory}/generation_config.json`
  if (!(yield* exists("read config", generationFile))) return config
  const generation = yield* readJsonObject("read config", generationFile)
  const eos = yield* Schema.decodeUnknownEffect(EosOnly)(generation).pipe(
    Effect.mapError((error) =>
      ModelError.malformed({
        operation: "read config",
        file: generationFile,
        message: `${generationFile}: ${oneLine(error)}; mend or remove the file`
      })
    )
  )
  if (eos.eos_token_id == null) return config
  const eosTokenIds = typeof eos.eos_token_id === "number" ? [eos.eos_token_id] : eos.eos_token_id
  return { ...config, eosTokenIds: eosTokenIds.filter((id) => id < config.vocabSize) }
})

const EosOnly = Schema.Struct({ eos_token_id: HfConfig.fields.eos_token_id })

/** The Hugging Face form of a configuration. `dtype` says how the weights beside it are stored. */
export const encodeConfig = (
  config: ModelConfig,
  dtype: "float32" | "float16" | "bfloat16" = "float32"
): { readonly [key: string]: unknown } => {
  const architecture = architectureOf(config)
  const keys = {
    architectures: [architecture.className],
    attention_dropout: 0,
    bos_token_id: config.bosTokenId,
    eos_token_id: config.eosTokenIds.length === 1 ? config.eosTokenIds[0] : config.eosTokenIds,
    hidden_act: "silu",
    hidden_size: config.hiddenSize,
    initializer_range: 0.02,
    intermediate_size: config.intermediateSize,
    max_position_embeddings: config.maxPositionEmbeddings,
    model_type: architecture.modelType,
    num_attention_heads: config.numHeads,
    num_hidden_layers: config.numLayers,
    num_key_value_heads: config.numKeyValueHeads,
    rms_norm_eps: config.rmsNormEps,
    ...encodeRopeScaling(config.ropeScaling),
    rope_theta: config.ropeTheta,
    tie_word_embeddings: config.tieWordEmbeddings,
    torch_dtype: dtype,
    use_cache: true,
    vocab_size: config.vocabSize,
    ...architecture.encode(config)
  }
  return Object.fromEntries(Object.entries(keys).sort(([a], [b]) => (a < b ? -1 : 1)))
}

/** Python's readers tell 4 from 4.0: keys that are floats there get their point. */
const withFloats = (json: string): string =>
  json.replace(/("(?:rope_theta|factor|low_freq_factor|high_freq_factor|attention_dropout)": \d+)(,?)$/gm, "$1.0$2")

/** Writes `config.json` into the folder, atomically; the folder is made when it is not there. */
export const writeConfig = Effect.fn("Config.write")(function* (
  directory: string,
  config: ModelConfig,
  dtype: "float32" | "float16" | "bfloat16" = "float32"
) {
  yield* makeDirectory("write config", directory)
  const text = `${withFloats(JSON.stringify(encodeConfig(config, dtype), null, 2))}\n`
  yield* writeTextAtomic("write config", `${directory}/config.json`, text)
})

export const linearModules = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"] as const
export type LinearModule = (typeof linearModules)[number]

/** The block of a layer in which a linear module lives, as in tensor names. */
export const moduleBlock = (module: LinearModule): "self_attn" | "mlp" =>
  module === "gate_proj" || module === "up_proj" || module === "down_proj" ? "mlp" : "self_attn"

/** `[out, in]` of each linear module of a layer, as stored (`y = x Wᵀ`). */
export const linearShapes = (config: ModelConfig): Readonly<Record<LinearModule, readonly [number, number]>> => {
  const q = config.numHeads * config.headDim
  const kv = config.numKeyValueHeads * config.headDim
  return {
    q_proj: [q, config.hiddenSize],
    k_proj: [kv, config.hiddenSize],
    v_proj: [kv, config.hiddenSize],
    o_proj: [config.hiddenSize, q],
    gate_proj: [config.intermediateSize, config.hiddenSize],
    up_proj: [config.intermediateSize, config.hiddenSize],
    down_proj: [config.hiddenSize, config.intermediateSize]
  }
}

/** Name → shape of every tensor the model folder must hold. `lm_head.weight` is absent when the head is tied. */
export const tensorShapes = (config: ModelConfig): ReadonlyMap<string, ReadonlyArray<number>> => {
  const shapes = new Map<string, ReadonlyArray<number>>()
  const linear = linearShapes(config)
  shapes.set("model.embed_tokens.weight", [config.vocabSize, config.hiddenSize])
  for (let layer = 0; layer < config.numLayers; layer++) {
    const prefix = `model.layers.${layer}`
    shapes.set(`${prefix}.input_layernorm.weight`, [config.hiddenSize])
    shapes.set(`${prefix}.post_attention_layernorm.weight`, [config.hiddenSize])
    for (const module of linearModules) {
      shapes.set(`${prefix}.${moduleBlock(module)}.${module}.weight`, linear[module])
    }
    for (const [name, shape] of architectureOf(config).attentionTensors(config, `${prefix}.self_attn`)) {
      shapes.set(name, shape)
    }
  }
  shapes.set("model.norm.weight", [config.hiddenSize])
  if (!config.tieWordEmbeddings) shapes.set("lm_head.weight", [config.vocabSize, config.hiddenSize])
  return shapes
}

/** Numbers in the tensors of a model of this configuration; a tied head counts once. */
export const parameterCount = (config: ModelConfig): number => {
  let total = 0
  for (const shape of tensorShapes(config).values()) total += shape.reduce((a, b) => a * b, 1)
  return total
}
