/**
 * A Hugging Face `config.json` of the Qwen2 architecture, as the engine sees it. Options that would change the
 * arithmetic and that the engine does not do are errors that name the option; they are never ignored. Keys that carry
 * no arithmetic are dropped; keys nobody here has heard of are dropped with a warning in the log.
 */
import { Effect, Schema } from "effect"
import { exists, isRecord, makeDirectory, oneLine, readJsonObject, writeTextAtomic } from "./internal/files.ts"
import { ModelError, quote } from "./ModelError.ts"

const Size = Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 2 ** 31 - 1 }))
const Depth = Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 4096 }))
const TokenId = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 2 ** 31 - 1 }))
const Positive = Schema.Finite.check(Schema.isGreaterThan(0))

/**
 * Sizes in elements. `headDim · numHeads` may differ from `hiddenSize`; `numHeads` is a multiple of `numKeyValueHeads`
 * and `headDim` is even (rotary pairs). `attentionBias` is the bias of q, k and v; o never has one.
 */
export const ModelConfig = Schema.Struct({
  modelType: Schema.Literal("qwen2"),
  hiddenSize: Size,
  intermediateSize: Size,
  numLayers: Depth,
  numHeads: Size,
  numKeyValueHeads: Size,
  headDim: Size,
  vocabSize: Size,
  maxPositionEmbeddings: Size,
  rmsNormEps: Positive,
  ropeTheta: Positive,
  tieWordEmbeddings: Schema.Boolean,
  attentionBias: Schema.Boolean,
  eosTokenIds: Schema.Array(TokenId),
  bosTokenId: Schema.NullOr(TokenId)
})
export type ModelConfig = typeof ModelConfig.Type

/** The keys of `config.json` that carry arithmetic or sizes, with Qwen2's defaults where it has them. */
const HfConfig = Schema.Struct({
  model_type: Schema.String,
  hidden_size: Size,
  intermediate_size: Size,
  num_hidden_layers: Depth,
  num_attention_heads: Size,
  num_key_value_heads: Schema.optionalKey(Schema.NullOr(Size)),
  head_dim: Schema.optionalKey(Schema.NullOr(Size)),
  vocab_size: Size,
  max_position_embeddings: Schema.optionalKey(Size),
  rms_norm_eps: Schema.optionalKey(Positive),
  rope_theta: Schema.optionalKey(Positive),
  tie_word_embeddings: Schema.optionalKey(Schema.Boolean),
  attention_bias: Schema.optionalKey(Schema.Boolean),
  eos_token_id: Schema.optionalKey(Schema.NullOr(Schema.Union([TokenId, Schema.Array(TokenId)]))),
  bos_token_id: Schema.optionalKey(Schema.NullOr(TokenId))
})

/** Known keys without influence on the forward pass. */
const inert = new Set(
  (
    "architectures torch_dtype dtype transformers_version use_cache initializer_range pad_token_id sliding_window " +
    "max_window_layers _name_or_path _attn_implementation attn_implementation output_attentions output_hidden_states " +
    "return_dict id2label label2id is_decoder is_encoder_decoder task_specific_params unk_token_id sep_token_id " +
    "auto_map problem_type finetuning_task tokenizer_class prefix name_or_path chunk_size_feed_forward"
  ).split(" ")
)

/** Keys that change the arithmetic, each with the test that says when it is harmless. */
const demands: Readonly<Record<string, (value: unknown) => boolean>> = {
  model_type: (v) => v === "qwen2",
  hidden_act: (v) => v === "silu" || v === "swish",
  rope_scaling: (v) => v === null || isDefaultRope(v),
  rope_parameters: (v) => v === null || isDefaultRope(v),
  use_sliding_window: (v) => v === false || v === null,
  layer_types: (v) => v === null || (Array.isArray(v) && v.every((kind) => kind === "full_attention")),
  attention_dropout: (v) => v === 0 || v === null,
  partial_rotary_factor: (v) => v === 1 || v === null,
  mlp_bias: (v) => v === false || v === null,
  use_mrope: (v) => v === false || v === null,
  quantization_config: (v) => v === null,
  pruned_heads: (v) => v === null || (isRecord(v) && Object.keys(v).length === 0),
  logits_soft_cap: (v) => v === null,
  attn_logit_softcapping: (v) => v === null,
  final_logit_softcapping: (v) => v === null,
  num_experts: (v) => v === null || v === 0,
  vision_config: (v) => v === null
}

const isDefaultRope = (value: unknown): boolean =>
  isRecord(value) &&
  (value.rope_type ?? value.type ?? "default") === "default" &&
  (value.partial_rotary_factor ?? 1) === 1 &&
  (value.factor ?? 1) === 1

/** Decodes the parsed `config.json`; `file` only names it in messages. */
export const decodeConfig = Effect.fnUntraced(function* (raw: unknown, file = "config.json") {
  const operation = "read config"
  if (!isRecord(raw)) {
    return yield* ModelError.malformed({ operation, file, message: `${file} must hold a JSON object` })
  }
  for (const [option, harmless] of Object.entries(demands)) {
    if (Object.hasOwn(raw, option) && !harmless(raw[option])) {
      const value = quote(JSON.stringify(raw[option]) ?? "undefined")
      return yield* ModelError.unsupported({
        operation,
        file,
        option,
        message: `${file}: ${option} = ${value} is not supported; this engine runs plain Qwen2 models (model_type "qwen2", silu, full attention, unscaled RoPE)`
      })
    }
  }
  const hf = yield* Schema.decodeUnknownEffect(HfConfig)(raw).pipe(
    Effect.mapError((error) =>
      ModelError.malformed({
        operation,
        file,
        message: `${file}: ${oneLine(error)}; take the file that came with the model`
      })
    )
  )
  const unknown = Object.keys(raw).filter(
    (key) => !inert.has(key) && !Object.hasOwn(demands, key) && !Object.hasOwn(HfConfig.fields, key)
  )
  if (unknown.length > 0) {
    yield* Effect.logWarning(`${file}: ignoring unknown keys ${unknown.map(quote).join(", ")}`)
  }
  const nested = raw.rope_parameters ?? raw.rope_scaling
  const nestedTheta = isRecord(nested) && typeof nested.rope_theta === "number" ? nested.rope_theta : undefined
  const numKeyValueHeads = hf.num_key_value_heads ?? hf.num_attention_heads
  const contradiction = (message: string) =>
    ModelError.malformed({ operation, file, message: `${file}: ${message}; take the file that came with the model` })
  if (hf.num_attention_heads % numKeyValueHeads !== 0) {
    return yield* contradiction(
      `num_attention_heads ${hf.num_attention_heads} is not a multiple of num_key_value_heads ${numKeyValueHeads}`
    )
  }
  if (hf.head_dim == null && hf.hidden_size % hf.num_attention_heads !== 0) {
    return yield* contradiction(
      `hidden_size ${hf.hidden_size} is not a multiple of num_attention_heads ${hf.num_attention_heads} and head_dim is absent`
    )
  }
  const headDim = hf.head_dim ?? hf.hidden_size / hf.num_attention_heads
  if (headDim % 2 !== 0) return yield* contradiction(`head_dim ${headDim} is odd, rotary embeddings need pairs`)
  const ropeTheta = hf.rope_theta ?? nestedTheta ?? 10_000
  if (!(Number.isFinite(ropeTheta) && ropeTheta > 0)) return yield* contradiction(`rope_theta must be positive`)
  const config: ModelConfig = {
    modelType: "qwen2",
    hiddenSize: hf.hidden_size,
    intermediateSize: hf.intermediate_size,
    numLayers: hf.num_hidden_layers,
    numHeads: hf.num_attention_heads,
    numKeyValueHeads,
    headDim,
    vocabSize: hf.vocab_size,
    maxPositionEmbeddings: hf.max_position_embeddings ?? 32_768,
    rmsNormEps: hf.rms_norm_eps ?? 1e-6,
    ropeTheta,
    tieWordEmbeddings: hf.tie_word_embeddings ?? false,
    attentionBias: hf.attention_bias ?? true,
    eosTokenIds:
      hf.eos_token_id == null ? [] : typeof hf.eos_token_id === "number" ? [hf.eos_token_id] : hf.eos_token_id,
    bosTokenId: hf.bos_token_id ?? null
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
): { readonly [key: string]: unknown } => ({
  architectures: ["Qwen2ForCausalLM"],
  attention_dropout: 0,
  ...(config.attentionBias ? {} : { attention_bias: false }),
  bos_token_id: config.bosTokenId,
  eos_token_id: config.eosTokenIds.length === 1 ? config.eosTokenIds[0] : config.eosTokenIds,
  ...(config.headDim * config.numHeads === config.hiddenSize ? {} : { head_dim: config.headDim }),
  hidden_act: "silu",
  hidden_size: config.hiddenSize,
  initializer_range: 0.02,
  intermediate_size: config.intermediateSize,
  max_position_embeddings: config.maxPositionEmbeddings,
  model_type: "qwen2",
  num_attention_heads: config.numHeads,
  num_hidden_layers: config.numLayers,
  num_key_value_heads: config.numKeyValueHeads,
  rms_norm_eps: config.rmsNormEps,
  rope_theta: config.ropeTheta,
  tie_word_embeddings: config.tieWordEmbeddings,
  torch_dtype: dtype,
  use_cache: true,
  use_sliding_window: false,
  vocab_size: config.vocabSize
})

/** Writes `config.json` into the folder, atomically; the folder is made when it is not there. */
export const writeConfig = Effect.fn("Config.write")(function* (
  directory: string,
  config: ModelConfig,
  dtype: "float32" | "float16" | "bfloat16" = "float32"
) {
  yield* makeDirectory("write config", directory)
  const text = `${JSON.stringify(encodeConfig(config, dtype), null, 2)}\n`
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
      const name = `${prefix}.${moduleBlock(module)}.${module}`
      shapes.set(`${name}.weight`, linear[module])
      if (config.attentionBias && (module === "q_proj" || module === "k_proj" || module === "v_proj")) {
        shapes.set(`${name}.bias`, [linear[module][0]])
      }
    }
  }
  shapes.set("model.norm.weight", [config.hiddenSize])
  if (!config.tieWordEmbeddings) shapes.set("lm_head.weight", [config.vocabSize, config.hiddenSize])
  return shapes
}
