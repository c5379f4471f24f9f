/**
 * What the architectures share: the engine's configuration, the keys of a Hugging Face `config.json` that all of them
 * read, and the position scaling. `Config.ts` is the public face; the files in `architectures/` differ from each other
 * only in what they state there.
 */
import { Effect, Schema } from "effect"
import { ModelError, quote } from "../ModelError.ts"
import { isRecord, oneLine } from "./files.ts"

const Size = Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 2 ** 31 - 1 }))
const Depth = Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 4096 }))
const TokenId = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 2 ** 31 - 1 }))
const Positive = Schema.Finite.check(Schema.isGreaterThan(0))

/**
 * How rotary frequencies are stretched for long contexts. `linear` divides every one by `factor` (Chen et al. 2023);
 * `llama3` divides the slow ones, leaves the fast ones and blends between, by their turns over `originalMaxPositions`.
 */
export const RopeScaling = Schema.Union([
  Schema.Struct({ kind: Schema.Literal("linear"), factor: Positive }),
  Schema.Struct({
    kind: Schema.Literal("llama3"),
    factor: Positive,
    lowFreqFactor: Positive,
    highFreqFactor: Positive,
    originalMaxPositions: Size
  })
])
export type RopeScaling = typeof RopeScaling.Type

export const ModelType = Schema.Literals(["qwen2", "llama", "qwen3"])
export type ModelType = typeof ModelType.Type

/**
 * Sizes in elements. `headDim · numHeads` may differ from `hiddenSize`; `numHeads` is a multiple of `numKeyValueHeads`
 * and `headDim` is even (rotary pairs). `attentionBias` is the bias of q, k and v; o never has one. `qkNorm`: an RMS
 * norm over every query and key head before the rotation. `maxPositionEmbeddings` counts what position scaling gained.
 */
export const ModelConfig = Schema.Struct({
  modelType: ModelType,
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
  ropeScaling: Schema.NullOr(RopeScaling),
  tieWordEmbeddings: Schema.Boolean,
  attentionBias: Schema.Boolean,
  qkNorm: Schema.Boolean,
  eosTokenIds: Schema.Array(TokenId),
  bosTokenId: Schema.NullOr(TokenId)
})
export type ModelConfig = typeof ModelConfig.Type

/** The keys of `config.json` that carry arithmetic or sizes in every architecture. */
export const HfConfig = Schema.Struct({
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
  attention_bias: Schema.optionalKey(Schema.NullOr(Schema.Boolean)),
  eos_token_id: Schema.optionalKey(Schema.NullOr(Schema.Union([TokenId, Schema.Array(TokenId)]))),
  bos_token_id: Schema.optionalKey(Schema.NullOr(TokenId))
})
export type HfConfig = typeof HfConfig.Type

export type Json = { readonly [key: string]: unknown }

/** Says when a key is harmless; any other value is refused by the key's name. */
export type Demands = Readonly<Record<string, (value: unknown) => boolean>>

export type TensorShape = readonly [name: string, shape: ReadonlyArray<number>]

/** One model family. Every file in `architectures/` states these parts in this order. */
export interface Architecture {
  readonly modelType: ModelType
  /** The class name under `architectures` of `config.json`. */
  readonly className: string
  /** What holds where `config.json` leaves a key out. `null`: `head_dim` and key-value heads follow from the sizes. */
  readonly defaults: {
    readonly numKeyValueHeads: number | null
    readonly headDim: number | null
    readonly maxPositionEmbeddings: number
    readonly rmsNormEps: number
    readonly ropeTheta: number
    readonly tieWordEmbeddings: boolean
    readonly attentionBias: boolean
    readonly bosTokenId: number | null
    readonly eosTokenIds: ReadonlyArray<number>
  }
  /** Always on in this family: the file has no key for it. */
  readonly qkNorm: boolean
  /** Options refused beside `commonDemands`. */
  readonly demands: Demands
  /** The tensors of one layer's attention beside q, k, v and o weights; `at` is the block's prefix. */
  readonly attentionTensors: (config: ModelConfig, at: string) => ReadonlyArray<TensorShape>
  /** Keys of `config.json` beside those that `encodeConfig` writes for every family. */
  readonly encode: (config: ModelConfig) => Json
}

/** Known keys without influence on the forward pass. `pretraining_tp` only says how a product was split. */
export const inertKeys: ReadonlySet<string> = new Set(
  (
    "architectures torch_dtype dtype transformers_version use_cache initializer_range pad_token_id pretraining_tp " +
    "max_window_layers _name_or_path _attn_implementation attn_implementation output_attentions output_hidden_states " +
    "return_dict id2label label2id is_decoder is_encoder_decoder task_specific_params unk_token_id sep_token_id " +
    "auto_map problem_type finetuning_task tokenizer_class prefix name_or_path chunk_size_feed_forward " +
    "original_max_position_embeddings"
  ).split(" ")
)

export const isOff = (value: unknown): boolean => value === false || value === null
export const isNull = (value: unknown): boolean => value === null
const isNone = (value: unknown): boolean => value === null || value === 0

/** Keys that change the arithmetic in any family, each with the test that says when it is harmless. */
export const commonDemands: Demands = {
  hidden_act: (v) => v === "silu" || v === "swish",
  use_sliding_window: isOff,
  layer_types: (v) => v === null || (Array.isArray(v) && v.every((kind) => kind === "full_attention")),
  attention_dropout: isNone,
  partial_rotary_factor: (v) => v === 1 || v === null,
  mlp_bias: isOff,
  use_mrope: isOff,
  quantization_config: isNull,
  pruned_heads: (v) => v === null || (isRecord(v) && Object.keys(v).length === 0),
  logits_soft_cap: isNull,
  attn_logit_softcapping: isNull,
  final_logit_softcapping: isNull,
  num_experts: isNone,
  num_local_experts: isNone,
  n_routed_experts: isNone,
  moe_intermediate_size: isNone,
  vision_config: isNull
}

/** The scaled position keys of `config.json` in either spelling; both may stand there when they agree. */
const ropeKeys = ["rope_parameters", "rope_scaling"] as const

/** Keys of a scaling object that are read here. */
const ropeFields = new Set(
  (
    "type rope_type rope_theta factor low_freq_factor high_freq_factor original_max_position_embeddings " +
    "partial_rotary_factor"
  ).split(" ")
)

const Nested = Schema.Struct({
  rope_theta: Schema.optionalKey(Schema.NullOr(Positive)),
  factor: Schema.optionalKey(Schema.NullOr(Positive))
})
const Llama3 = Schema.Struct({
  factor: Positive,
  low_freq_factor: Positive,
  high_freq_factor: Positive,
  original_max_position_embeddings: Size
})

/**
 * Rotary base and scaling from `rope_theta`, `rope_scaling` (transformers 4: `type` or `rope_type` inside) and
 * `rope_parameters` (transformers 5, which holds the base as well). Spellings that contradict each other are refused.
 */
export const decodeRope = Effect.fnUntraced(function* (raw: Json, hf: HfConfig, file: string) {
  const operation = "read config"
  const malformed = (message: string) =>
    ModelError.malformed({ operation, file, message: `${file}: ${message}; take the file that came with the model` })
  const found: Array<{ key: string; scaling: RopeScaling | null }> = []
  const bases = hf.rope_theta === undefined ? [] : [hf.rope_theta]
  for (const key of ropeKeys) {
    const value = raw[key]
    if (value === undefined || value === null) continue
    const unsupported = ModelError.unsupported({
      operation,
      file,
      option: key,
      message:
        `${file}: ${key} = ${quote(JSON.stringify(value))} is not supported; positions may be unscaled, ` +
        `"linear" with a factor, or "llama3"`
    })
    if (!isRecord(value)) return yield* unsupported
    const kind = value.rope_type ?? value.type ?? "default"
    const strange = Object.keys(value).some((field) => !ropeFields.has(field) && value[field] !== null)
    if (strange || (value.partial_rotary_factor ?? 1) !== 1) return yield* unsupported
    const decoded = <A>(schema: Schema.Decoder<A>) =>
      Schema.decodeUnknownEffect(schema)({
        ...(raw.original_max_position_embeddings == null
          ? {}
          : { original_max_position_embeddings: raw.original_max_position_embeddings }),
        ...value
      }).pipe(Effect.mapError((error) => malformed(`${key}: ${oneLine(error)}`)))
    const nested = yield* decoded(Nested)
    if (nested.rope_theta != null) bases.push(nested.rope_theta)
    if (kind === "default" && (nested.factor ?? 1) === 1) found.push({ key, scaling: null })
    else if (kind === "linear") {
      if (nested.factor == null) return yield* malformed(`${key} of type "linear" has no factor`)
      found.push({ key, scaling: { kind, factor: nested.factor } })
    } else if (kind === "llama3") {
      const x = yield* decoded(Llama3)
      if (x.high_freq_factor <= x.low_freq_factor) {
        return yield* malformed(
          `${key}: high_freq_factor ${x.high_freq_factor} must exceed low_freq_factor ${x.low_freq_factor}`
        )
      }
      found.push({
        key,
        scaling: {
          kind,
          factor: x.factor,
          lowFreqFactor: x.low_freq_factor,
          highFreqFactor: x.high_freq_factor,
          originalMaxPositions: x.original_max_position_embeddings
        }
      })
    } else return yield* unsupported
  }
  const scaling = found[0]?.scaling ?? null
  if (found.some((other) => JSON.stringify(other.scaling) !== JSON.stringify(scaling))) {
    return yield* malformed("rope_parameters and rope_scaling contradict each other")
  }
  if (bases.some((theta) => theta !== bases[0])) {
    return yield* malformed(`rope_theta has more than one value (${bases.join(", ")})`)
  }
  return { theta: bases[0], scaling }
})

/** `rope_scaling` as transformers 4 and 5 and vLLM read it; nothing where positions are not scaled. */
export const encodeRopeScaling = (scaling: RopeScaling | null): Json => {
  if (scaling === null) return {}
  if (scaling.kind === "linear") return { rope_scaling: { type: "linear", factor: scaling.factor } }
  return {
    rope_scaling: {
      factor: scaling.factor,
      high_freq_factor: scaling.highFreqFactor,
      low_freq_factor: scaling.lowFreqFactor,
      original_max_position_embeddings: scaling.originalMaxPositions,
      rope_type: "llama3"
    }
  }
}
