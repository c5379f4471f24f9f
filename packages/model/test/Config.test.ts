import { assert, describe, it } from "@effect/vitest"
import { Effect, FileSystem } from "effect"
import { decodeConfig, encodeConfig, loadConfig, tensorShapes, writeConfig } from "../src/Config.ts"
import { failsWith, platform, temporaryFolder } from "./support.ts"

/** Qwen2.5-Coder-0.5B's own values. */
const qwen = {
  architectures: ["Qwen2ForCausalLM"],
  attention_dropout: 0.0,
  bos_token_id: 151643,
  eos_token_id: 151643,
  hidden_act: "silu",
  hidden_size: 896,
  initializer_range: 0.02,
  intermediate_size: 4864,
  max_position_embeddings: 32768,
  max_window_layers: 24,
  model_type: "qwen2",
  num_attention_heads: 14,
  num_hidden_layers: 24,
  num_key_value_heads: 2,
  rms_norm_eps: 1e-6,
  rope_theta: 1000000.0,
  sliding_window: 32768,
  tie_word_embeddings: true,
  torch_dtype: "bfloat16",
  transformers_version: "4.40.1",
  use_cache: true,
  use_mrope: false,
  use_sliding_window: false,
  vocab_size: 151936
}

describe("Config", () => {
  it.effect("decodes Qwen2.5-Coder-0.5B and counts its parameters", () =>
    Effect.gen(function* () {
      const config = yield* decodeConfig(qwen)
      assert.deepStrictEqual(config, {
        modelType: "qwen2",
        hiddenSize: 896,
        intermediateSize: 4864,
        numLayers: 24,
        numHeads: 14,
        numKeyValueHeads: 2,
        headDim: 64,
        vocabSize: 151936,
        maxPositionEmbeddings: 32768,
        rmsNormEps: 1e-6,
        ropeTheta: 1e6,
        ropeScaling: null,
        tieWordEmbeddings: true,
        attentionBias: true,
        qkNorm: false,
        eosTokenIds: [151643],
        bosTokenId: 151643
      })
      let parameters = 0
      for (const shape of tensorShapes(config).values()) parameters += shape.reduce((a, b) => a * b, 1)
      assert.strictEqual(parameters, 494_032_768, "the published size of the 0.5B model")
      assert.isFalse(tensorShapes(config).has("lm_head.weight"))
      assert.isTrue(tensorShapes({ ...config, tieWordEmbeddings: false }).has("lm_head.weight"))
    })
  )

  it.effect("encodes what it decodes; newer rope_parameters and several end tokens are understood", () =>
    Effect.gen(function* () {
      const base = yield* decodeConfig(qwen)
      const variants = [
        base,
        { ...base, attentionBias: false, headDim: 128, tieWordEmbeddings: false, bosTokenId: null },
        { ...base, eosTokenIds: [1, 2] },
        { ...base, eosTokenIds: [] }
      ]
      for (const config of variants) {
        const json: unknown = JSON.parse(JSON.stringify(encodeConfig(config)))
        assert.deepStrictEqual(yield* decodeConfig(json), config)
      }
      const { rope_theta: theta, ...rest } = qwen
      const newer = {
        ...rest,
        rope_parameters: { rope_theta: theta, rope_type: "default" },
        layer_types: ["full_attention"]
      }
      assert.deepStrictEqual(yield* decodeConfig(newer), base)
    })
  )

  it.effect("options that change the arithmetic are named, not ignored", () =>
    Effect.gen(function* () {
      const refused: ReadonlyArray<readonly [string, unknown]> = [
        ["model_type", "mistral"],
        ["hidden_act", "gelu"],
        ["rope_scaling", { type: "yarn", factor: 4 }],
        ["rope_scaling", { factor: 2 }],
        ["rope_parameters", { rope_theta: 1e6, rope_type: "dynamic", factor: 2 }],
        ["use_sliding_window", true],
        ["layer_types", ["full_attention", "sliding_attention"]],
        ["attention_dropout", 0.1],
        ["quantization_config", { bits: 4 }],
        ["partial_rotary_factor", 0.5],
        ["mlp_bias", true]
      ]
      for (const [option, value] of refused) {
        const reason = yield* failsWith(decodeConfig({ ...qwen, [option]: value }), "Unsupported")
        assert.strictEqual(reason._tag === "Unsupported" && reason.option, option)
        assert.include(reason.message, option)
      }
    })
  )

  it.effect("impossible values are refused with the key", () =>
    Effect.gen(function* () {
      const refused: ReadonlyArray<readonly [string, unknown]> = [
        ["hidden_size", 0],
        ["hidden_size", "896"],
        ["hidden_size", 897],
        ["num_key_value_heads", 4],
        ["num_hidden_layers", 1e9],
        ["head_dim", 63],
        ["vocab_size", 1.5],
        ["rms_norm_eps", -1],
        ["rope_theta", 0],
        ["eos_token_id", 151936],
        ["tie_word_embeddings", "yes"]
      ]
      for (const [key, value] of refused) {
        const reason = yield* failsWith(decodeConfig({ ...qwen, [key]: value }), "Malformed")
        assert.include(reason.message, key === "eos_token_id" ? "151936" : key)
      }
      const { vocab_size: _, ...without } = qwen
      assert.include((yield* failsWith(decodeConfig(without), "Malformed")).message, "vocab_size")
      yield* failsWith(decodeConfig(null), "Malformed")
    })
  )

  it.effect("folders: written atomically, read back, generation_config wins for end tokens", () =>
    Effect.gen(function* () {
      const fs = yield* FileSystem.FileSystem
      const directory = `${yield* temporaryFolder}/new/model`
      const config = yield* decodeConfig(qwen)
      yield* failsWith(loadConfig(directory), "Missing")
      yield* writeConfig(directory, config, "bfloat16")
      assert.deepStrictEqual(yield* fs.readDirectory(directory), ["config.json"])
      assert.deepStrictEqual(yield* loadConfig(directory), config)
      yield* fs.writeFileString(
        `${directory}/generation_config.json`,
        '{"eos_token_id":[151645,151643],"temperature":0.7}'
      )
      assert.deepStrictEqual((yield* loadConfig(directory)).eosTokenIds, [151645, 151643])
      yield* fs.writeFileString(`${directory}/generation_config.json`, '{"eos_token_id":"x"}')
      yield* failsWith(loadConfig(directory), "Malformed")
      yield* fs.writeFileString(`${directory}/config.json`, '{"model_type":')
      yield* failsWith(loadConfig(directory), "Malformed")
    }).pipe(Effect.provide(platform))
  )
})
