/** Configurations of the three families: published values, the two spellings of position scaling, what each refuses. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, FileSystem } from "effect"
import { decodeConfig, encodeConfig, loadConfig, tensorShapes, writeConfig } from "../src/Config.ts"
import { ropeFrequencies } from "../src/Rope.ts"
import { failsWith, platform, temporaryFolder } from "./support.ts"

/** As published, less the keys that only name versions. */
const deepseek = {
  architectures: ["LlamaForCausalLM"],
  bos_token_id: 32013,
  eos_token_id: 32014,
  hidden_act: "silu",
  hidden_size: 4096,
  initializer_range: 0.02,
  intermediate_size: 11008,
  max_position_embeddings: 16384,
  model_type: "llama",
  num_attention_heads: 32,
  num_hidden_layers: 32,
  num_key_value_heads: 32,
  pretraining_tp: 1,
  rms_norm_eps: 1e-6,
  rope_scaling: { factor: 4.0, type: "linear" },
  rope_theta: 100000,
  tie_word_embeddings: false,
  torch_dtype: "bfloat16",
  use_cache: true,
  vocab_size: 32256
}
const codellama = {
  ...deepseek,
  bos_token_id: 1,
  eos_token_id: 2,
  rms_norm_eps: 1e-5,
  rope_scaling: null,
  rope_theta: 1000000,
  vocab_size: 32016
}
const qwen3 = {
  architectures: ["Qwen3ForCausalLM"],
  attention_bias: false,
  attention_dropout: 0.0,
  bos_token_id: 151643,
  eos_token_id: 151645,
  head_dim: 128,
  hidden_act: "silu",
  hidden_size: 4096,
  intermediate_size: 12288,
  max_position_embeddings: 40960,
  max_window_layers: 36,
  model_type: "qwen3",
  num_attention_heads: 32,
  num_hidden_layers: 36,
  num_key_value_heads: 8,
  rms_norm_eps: 1e-6,
  rope_scaling: null,
  rope_theta: 1000000,
  sliding_window: null,
  tie_word_embeddings: false,
  use_sliding_window: false,
  vocab_size: 151936
}
const llama3 = {
  factor: 8.0,
  high_freq_factor: 4.0,
  low_freq_factor: 1.0,
  original_max_position_embeddings: 8192,
  rope_type: "llama3"
}

const count = (shapes: ReadonlyMap<string, ReadonlyArray<number>>): number =>
  [...shapes.values()].reduce((sum, shape) => sum + shape.reduce((a, b) => a * b, 1), 0)

describe("architectures", () => {
  it.effect("published models have their published number of parameters", () =>
    Effect.gen(function* () {
      const models: ReadonlyArray<readonly [object, number]> = [
        [deepseek, 6_740_512_768],
        [codellama, 6_738_546_688],
        [qwen3, 8_190_735_360]
      ]
      for (const [json, parameters] of models) {
        const config = yield* decodeConfig(json)
        assert.strictEqual(count(tensorShapes(config)), parameters)
        assert.deepStrictEqual(yield* decodeConfig(JSON.parse(JSON.stringify(encodeConfig(config)))), config)
      }
      const shapes = tensorShapes(yield* decodeConfig(qwen3))
      assert.deepStrictEqual(shapes.get("model.layers.35.self_attn.q_norm.weight"), [128])
      assert.deepStrictEqual(shapes.get("model.layers.35.self_attn.k_norm.weight"), [128])
      assert.isFalse([...shapes.keys()].some((name) => name.endsWith(".bias")))
    })
  )

  it.effect("keys that a file leaves out take the family's value", () =>
    Effect.gen(function* () {
      const sizes = {
        hidden_size: 64,
        intermediate_size: 96,
        num_hidden_layers: 2,
        num_attention_heads: 8,
        vocab_size: 100
      }
      const llama = yield* decodeConfig({ ...sizes, model_type: "llama" })
      assert.deepStrictEqual(
        [llama.maxPositionEmbeddings, llama.rmsNormEps, llama.ropeTheta, llama.tieWordEmbeddings, llama.attentionBias],
        [2048, 1e-6, 10_000, false, false]
      )
      assert.deepStrictEqual(
        [llama.numKeyValueHeads, llama.headDim, llama.bosTokenId, llama.eosTokenIds],
        [8, 8, 1, [2]]
      )
      const qwen = yield* decodeConfig({ ...sizes, model_type: "qwen3", num_key_value_heads: null })
      assert.deepStrictEqual(
        [qwen.numKeyValueHeads, qwen.headDim, qwen.qkNorm, qwen.maxPositionEmbeddings, qwen.eosTokenIds],
        [8, 128, true, 32_768, []]
      )
      const absent = yield* failsWith(decodeConfig({ ...sizes, model_type: "qwen2" }), "Malformed")
      assert.include(absent.message, "num_key_value_heads 32")
      yield* failsWith(decodeConfig({ ...sizes }), "Malformed")
    })
  )

  it.effect("position scaling in either spelling; contradictions and gaps are refused", () =>
    Effect.gen(function* () {
      const { rope_scaling: scaling, rope_theta: theta, ...rest } = deepseek
      const linear = yield* decodeConfig(deepseek)
      assert.deepStrictEqual(linear.ropeScaling, { kind: "linear", factor: 4 })
      for (const spelled of [
        { ...rest, rope_parameters: { rope_type: "linear", factor: 4, rope_theta: theta } },
        { ...deepseek, rope_scaling: { rope_type: "linear", factor: 4, type: "linear" } },
        { ...deepseek, rope_parameters: { ...scaling, rope_theta: theta } }
      ]) {
        assert.deepStrictEqual(yield* decodeConfig(spelled), linear)
      }
      const blended = yield* decodeConfig({ ...codellama, rope_scaling: llama3 })
      assert.deepStrictEqual(blended.ropeScaling, {
        kind: "llama3",
        factor: 8,
        lowFreqFactor: 1,
        highFreqFactor: 4,
        originalMaxPositions: 8192
      })
      assert.deepStrictEqual(yield* decodeConfig(JSON.parse(JSON.stringify(encodeConfig(blended)))), blended)
      const { original_max_position_embeddings: original, ...shortened } = llama3
      const above = { ...codellama, rope_scaling: shortened, original_max_position_embeddings: original }
      assert.deepStrictEqual(yield* decodeConfig(above), blended)
      for (const [mistaken, word] of [
        [{ ...deepseek, rope_parameters: { rope_type: "default" } }, "contradict"],
        [{ ...deepseek, rope_parameters: { ...scaling, rope_theta: 1e6 } }, "rope_theta"],
        [{ ...deepseek, rope_scaling: { type: "linear" } }, "factor"],
        [{ ...deepseek, rope_scaling: { type: "linear", factor: 0 } }, "factor"],
        [{ ...deepseek, rope_scaling: shortened }, "original_max_position_embeddings"],
        [{ ...deepseek, rope_scaling: { ...llama3, high_freq_factor: 1 } }, "high_freq_factor"]
      ] as const) {
        assert.include((yield* failsWith(decodeConfig(mistaken), "Malformed")).message, word)
      }
    })
  )

  it.effect("each family refuses by name what it does not run", () =>
    Effect.gen(function* () {
      for (const [base, option, value] of [
        [deepseek, "attention_bias", true],
        [deepseek, "mlp_bias", true],
        [deepseek, "sliding_window", 4096],
        [deepseek, "rope_scaling", { type: "dynamic", factor: 2 }],
        [deepseek, "rope_scaling", { rope_type: "yarn", factor: 4, original_max_position_embeddings: 4096 }],
        [deepseek, "rope_scaling", { rope_type: "longrope", short_factor: [1], long_factor: [2] }],
        [deepseek, "rope_scaling", { type: "linear", factor: 2, attention_factor: 1.2 }],
        [deepseek, "rope_parameters", { full_attention: { rope_type: "default" } }],
        [deepseek, "rope_scaling", "linear"],
        [deepseek, "quantization_config", { quant_method: "gptq", bits: 4 }],
        [deepseek, "num_local_experts", 8],
        [qwen3, "attention_bias", true],
        [qwen3, "use_sliding_window", true],
        [qwen3, "num_experts", 128],
        [qwen3, "model_type", "qwen3_moe"],
        [qwen3, "model_type", 3]
      ] as const) {
        const reason = yield* failsWith(decodeConfig({ ...base, [option]: value }), "Unsupported")
        assert.strictEqual(reason._tag === "Unsupported" && reason.option, option)
        assert.include(reason.message, option)
      }
      yield* decodeConfig({ ...deepseek, pretraining_tp: 4 })
    })
  )

  it.effect("a written folder reads back, with floats that Python takes for floats", () =>
    Effect.gen(function* () {
      const fs = yield* FileSystem.FileSystem
      for (const json of [deepseek, { ...codellama, rope_scaling: llama3 }, qwen3]) {
        const directory = yield* temporaryFolder
        const config = yield* decodeConfig(json)
        yield* writeConfig(directory, config, "bfloat16")
        assert.deepStrictEqual(yield* loadConfig(directory), config)
        const text = yield* fs.readFileString(`${directory}/config.json`)
        assert.match(text, /"rope_theta": \d+\.0,/)
        assert.notMatch(text, /"(factor|low_freq_factor|high_freq_factor)": \d+,?\n/)
      }
    }).pipe(Effect.provide(platform))
  )

  it.effect("scaled frequencies: closed forms", () =>
    Effect.gen(function* () {
      const plain = ropeFrequencies(yield* decodeConfig({ ...codellama, rope_theta: 100000 }))
      const linear = ropeFrequencies(yield* decodeConfig(deepseek))
      const blended = ropeFrequencies(yield* decodeConfig({ ...codellama, rope_theta: 100000, rope_scaling: llama3 }))
      assert.lengthOf(plain, 64)
      plain.forEach((f, i) => {
        assert.closeTo(f, Math.exp((-i / 64) * Math.log(100000)), 1e-15)
        assert.strictEqual(linear[i], f / 4)
        const wavelength = (2 * Math.PI) / f
        if (wavelength < 2048) assert.strictEqual(blended[i], f)
        else if (wavelength > 8192) assert.closeTo(blended[i]!, f / 8, 1e-18)
        else {
          const smooth = (8192 / wavelength - 1) / 3
          assert.closeTo(blended[i]!, ((1 - smooth) * f) / 8 + smooth * f, 1e-18)
        }
      })
      const kinds = [...blended].map((b, i) => (b === plain[i] ? "kept" : b < plain[i]! / 7.99 ? "divided" : "blended"))
      for (const kind of ["kept", "blended", "divided"]) assert.include(kinds, kind)
    })
  )
})
