import { assert, describe, it } from "@effect/vitest"
import { Effect, FileSystem } from "effect"
import { type LinearModule, linearModules, linearShapes, type ModelConfig } from "../src/Config.ts"
import {
  type AdapterToWrite,
  adapterShapes,
  type LoraKey,
  type LoraPair,
  loraKey,
  readAdapter,
  writeAdapter
} from "../src/Peft.ts"
import { openSafetensors } from "../src/Safetensors.ts"
import { type TensorToWrite, writeSafetensors } from "../src/SafetensorsWriter.ts"
import { readValueHead, writeValueHead } from "../src/ValueHeadFile.ts"
import { failsWith, platform, seeded, temporaryFolder } from "./support.ts"

const config: ModelConfig = {
  modelType: "qwen2",
  hiddenSize: 8,
  intermediateSize: 12,
  numLayers: 2,
  numHeads: 4,
  numKeyValueHeads: 2,
  headDim: 2,
  vocabSize: 16,
  maxPositionEmbeddings: 32,
  rmsNormEps: 1e-6,
  ropeTheta: 10_000,
  ropeScaling: null,
  tieWordEmbeddings: true,
  attentionBias: true,
  qkNorm: false,
  eosTokenIds: [0],
  bosTokenId: null
}

const makeAdapter = (
  seed: number,
  rank = 3,
  targetModules: ReadonlyArray<LinearModule> = linearModules
): AdapterToWrite => {
  const random = seeded(seed)
  const numbers = (size: number) => Float32Array.from({ length: size }, () => random() - 0.5)
  const tensors = new Map<LoraKey, LoraPair>()
  for (let layer = 0; layer < config.numLayers; layer++) {
    for (const module of targetModules) {
      const [out, input] = linearShapes(config)[module]
      tensors.set(loraKey(layer, module), { a: numbers(rank * input), b: numbers(out * rank) })
    }
  }
  return { rank, alpha: 16, targetModules, tensors }
}

const weights = (directory: string) => `${directory}/adapter_model.safetensors`
const prefix = "base_model.model.model.layers"

/** The tensors of an adapter as a PEFT folder lists them, to be changed and written again. */
const stored = (adapter: AdapterToWrite): Array<TensorToWrite> =>
  [...adapter.tensors].flatMap(([key, { a, b }]) => {
    const [, layer, module] = key.split(".")
    const block = module === "gate_proj" || module === "up_proj" || module === "down_proj" ? "mlp" : "self_attn"
    const name = `${prefix}.${layer}.${block}.${module}`
    return [
      { name: `${name}.lora_A.weight`, shape: [adapter.rank, a.length / adapter.rank], data: a },
      { name: `${name}.lora_B.weight`, shape: [b.length / adapter.rank, adapter.rank], data: b }
    ]
  })

describe("Peft", () => {
  it.effect("round trip; names and shapes are PEFT's; a second writing gives the same bytes", () =>
    Effect.gen(function* () {
      const fs = yield* FileSystem.FileSystem
      const directory = `${yield* temporaryFolder}/adapter`
      const adapter = makeAdapter(1)
      yield* writeAdapter(directory, config, adapter)
      assert.deepStrictEqual((yield* fs.readDirectory(directory)).sort(), [
        "adapter_config.json",
        "adapter_model.safetensors"
      ])
      const back = yield* readAdapter(directory, config)
      assert.deepStrictEqual(back.tensors, adapter.tensors)
      assert.strictEqual(back.scale, 16 / 3)
      assert.deepStrictEqual(back.targetModules, linearModules)
      assert.deepStrictEqual(yield* readAdapter(directory), back, "the sizes also follow from the files alone")
      const file = yield* openSafetensors(weights(directory))
      assert.strictEqual(file.tensors.size, 2 * 7 * 2)
      assert.deepStrictEqual([...file.metadata], [["format", "pt"]])
      assert.deepStrictEqual(file.tensors.get(`${prefix}.1.self_attn.k_proj.lora_A.weight`)?.shape, [3, 8])
      assert.deepStrictEqual(file.tensors.get(`${prefix}.1.self_attn.k_proj.lora_B.weight`)?.shape, [4, 3])
      assert.deepStrictEqual(file.tensors.get(`${prefix}.0.mlp.down_proj.lora_A.weight`)?.shape, [3, 12])
      const first = [
        yield* fs.readFile(weights(directory)),
        yield* fs.readFileString(`${directory}/adapter_config.json`)
      ]
      yield* writeAdapter(directory, config, { ...back, targetModules: [...linearModules].reverse() })
      assert.deepStrictEqual(
        [yield* fs.readFile(weights(directory)), yield* fs.readFileString(`${directory}/adapter_config.json`)],
        first
      )
    }).pipe(Effect.provide(platform))
  )

  it.effect("adapter_config.json has sorted keys, the expanded module list and what loaders need", () =>
    Effect.gen(function* () {
      const fs = yield* FileSystem.FileSystem
      const directory = yield* temporaryFolder
      yield* writeAdapter(directory, config, { ...makeAdapter(2), useRslora: true, baseModel: "org/base" })
      const text = yield* fs.readFileString(`${directory}/adapter_config.json`)
      const json: Record<string, unknown> = JSON.parse(text)
      assert.deepStrictEqual(Object.keys(json), Object.keys(json).sort())
      assert.strictEqual(text, JSON.stringify(json, null, 2))
      assert.deepInclude(json, {
        peft_type: "LORA",
        task_type: "CAUSAL_LM",
        r: 3,
        lora_alpha: 16,
        bias: "none",
        use_rslora: true,
        inference_mode: true,
        modules_to_save: null,
        base_model_name_or_path: "org/base",
        target_modules: ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
      })
      const adapter = yield* readAdapter(directory, config)
      assert.strictEqual(adapter.scale, 16 / Math.sqrt(3))
      assert.strictEqual(adapter.baseModel, "org/base")
    }).pipe(Effect.provide(platform))
  )

  it.effect("reads what PEFT itself writes: newer keys, another module order, half precision", () =>
    Effect.gen(function* () {
      const fs = yield* FileSystem.FileSystem
      const directory = yield* temporaryFolder
      const adapter = makeAdapter(3, 4, ["q_proj", "v_proj"])
      const peft = {
        alora_invocation_tokens: null,
        alpha_pattern: {},
        arrow_config: null,
        auto_mapping: null,
        base_model_name_or_path: "Qwen/Qwen2.5-Coder-0.5B",
        bias: "none",
        corda_config: null,
        ensure_weight_tying: false,
        eva_config: null,
        exclude_modules: null,
        fan_in_fan_out: false,
        inference_mode: true,
        init_lora_weights: true,
        layer_replication: null,
        layers_pattern: null,
        layers_to_transform: null,
        loftq_config: {},
        lora_alpha: 32,
        lora_bias: false,
        lora_dropout: 0.05,
        megatron_config: null,
        megatron_core: "megatron.core",
        modules_to_save: null,
        peft_type: "LORA",
        peft_version: "0.18.0",
        qalora_group_size: 16,
        r: 4,
        rank_pattern: {},
        revision: null,
        target_modules: ["self_attn.v_proj", "q_proj"],
        target_parameters: null,
        task_type: "CAUSAL_LM",
        trainable_token_indices: null,
        use_dora: false,
        use_qalora: false,
        use_rslora: false
      }
      yield* fs.writeFileString(`${directory}/adapter_config.json`, JSON.stringify(peft, null, 2))
      yield* writeSafetensors(weights(directory), stored(adapter), { dtype: "BF16" })
      const read = yield* readAdapter(directory, config)
      assert.strictEqual(read.scale, 8)
      assert.deepStrictEqual(read.targetModules, ["q_proj", "v_proj"])
      for (const [key, { a }] of adapter.tensors) {
        read.tensors.get(key)?.a.forEach((x, i) => {
          assert.isAtMost(Math.abs(x - a[i]!), 2 ** -9)
        })
      }
      for (const [option, value] of [
        ["use_dora", true],
        ["rank_pattern", { q_proj: 8 }],
        ["alpha_pattern", { q_proj: 8 }],
        ["modules_to_save", ["lm_head"]],
        ["bias", "all"],
        ["fan_in_fan_out", true],
        ["layers_to_transform", [0]],
        ["init_lora_weights", "pissa"],
        ["target_modules", ["lm_head"]],
        ["target_modules", ".*_proj"],
        ["peft_type", "IA3"],
        ["lora_bias", true]
      ] as const) {
        yield* fs.writeFileString(`${directory}/adapter_config.json`, JSON.stringify({ ...peft, [option]: value }))
        const reason = yield* failsWith(readAdapter(directory, config), "Unsupported")
        assert.strictEqual(reason._tag === "Unsupported" && reason.option, option)
      }
      for (const change of [{ r: 0 }, { r: "8" }, { lora_alpha: null }, { use_rslora: "yes" }]) {
        yield* fs.writeFileString(`${directory}/adapter_config.json`, JSON.stringify({ ...peft, ...change }))
        yield* failsWith(readAdapter(directory, config), "Malformed")
      }
      yield* fs.writeFileString(
        `${directory}/adapter_config.json`,
        JSON.stringify({ ...peft, target_modules: "all-linear" })
      )
      assert.deepStrictEqual((yield* readAdapter(directory, config)).targetModules, ["q_proj", "v_proj"])
    }).pipe(Effect.provide(platform))
  )

  it.effect("tensors that do not fit the settings or the model are named", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryFolder
      const adapter = makeAdapter(4)
      yield* writeAdapter(directory, config, adapter)
      const good = stored(adapter)
      const attempt = Effect.fnUntraced(function* (tensors: ReadonlyArray<TensorToWrite>, model = config) {
        yield* writeSafetensors(weights(directory), tensors, { allowNonFinite: true })
        return yield* readAdapter(directory, model)
      })
      const extra = (name: string, shape: ReadonlyArray<number>): TensorToWrite => ({
        name,
        shape,
        data: new Float32Array(shape.reduce((a, b) => a * b, 1))
      })
      yield* attempt(good)
      const missing = yield* failsWith(attempt(good.slice(1)), "Missing")
      assert.include(missing.message, good[0]!.name)
      yield* failsWith(attempt(good.filter((t) => !t.name.includes("layers.1."))), "Missing")
      yield* failsWith(attempt([]), "Missing")
      yield* failsWith(attempt([...good, extra("base_model.model.lm_head.weight", [16, 8])]), "Unsupported")
      yield* failsWith(
        attempt([...good, extra(`${prefix}.0.self_attn.q_proj.lora_magnitude_vector`, [8])]),
        "Unsupported"
      )
      yield* failsWith(attempt([...good, extra(`${prefix}.0.mlp.q_proj.lora_A.weight`, [3, 8])]), "Unsupported")
      yield* failsWith(attempt([...good, extra(`${prefix}.2.self_attn.q_proj.lora_A.weight`, [3, 8])]), "Malformed")
      const reshaped = good.map((t, i) => (i === 0 ? { ...t, shape: [t.shape[1]!, t.shape[0]!] } : t))
      yield* failsWith(attempt(reshaped), "ShapeMismatch")
      yield* failsWith(attempt(good, { ...config, intermediateSize: 16 }), "ShapeMismatch")
      yield* failsWith(attempt(good, { ...config, numLayers: 3 }), "Missing")
      const poisoned = good.map((t, i) => (i === 5 ? { ...t, data: t.data.map(() => Number.NaN) } : t))
      yield* failsWith(attempt(poisoned), "NotFinite")
    }).pipe(Effect.provide(platform))
  )

  it.effect("writing: refused data leave the old adapter as it was; new settings replace the old ones", () =>
    Effect.gen(function* () {
      const fs = yield* FileSystem.FileSystem
      const directory = yield* temporaryFolder
      const old = makeAdapter(5)
      yield* writeAdapter(directory, config, old)
      yield* fs.writeFileString(`${directory}/other.txt`, "kept")
      const broken = makeAdapter(6)
      broken.tensors.get("layers.1.up_proj")!.b[2] = Number.NaN
      yield* failsWith(writeAdapter(directory, config, broken), "NotFinite")
      const short = makeAdapter(7)
      yield* failsWith(
        writeAdapter(directory, config, { ...short, tensors: new Map([...short.tensors].slice(1)) }),
        "Invalid"
      )
      yield* failsWith(writeAdapter(directory, config, { ...short, targetModules: ["q_proj"] }), "Invalid")
      yield* failsWith(writeAdapter(directory, config, { ...short, rank: 4 }), "ShapeMismatch")
      assert.deepStrictEqual((yield* readAdapter(directory, config)).tensors, old.tensors)
      const next = makeAdapter(8, 5, ["o_proj", "q_proj"])
      yield* writeAdapter(directory, config, next)
      const read = yield* readAdapter(directory, config)
      assert.strictEqual(read.rank, 5)
      assert.deepStrictEqual(read.targetModules, ["q_proj", "o_proj"])
      assert.strictEqual(yield* fs.readFileString(`${directory}/other.txt`), "kept")
      assert.strictEqual((yield* fs.readDirectory(directory)).length, 3)
      yield* failsWith(writeAdapter(`${directory}/other.txt/x`, config, next), "Io")
    }).pipe(Effect.provide(platform))
  )
})

describe("names of real models' adapters", () => {
  const sizes = (
    modelType: ModelConfig["modelType"],
    layers: number,
    hidden: number,
    kv: number,
    ffn: number
  ): ModelConfig => ({
    ...config,
    modelType,
    numLayers: layers,
    hiddenSize: hidden,
    intermediateSize: ffn,
    headDim: 128,
    numHeads: hidden / 128,
    numKeyValueHeads: kv / 128
  })
  const count = (shapes: ReadonlyMap<string, ReadonlyArray<number>>) =>
    [...shapes.values()].reduce((sum, shape) => sum + shape.reduce((a, b) => a * b, 1), 0)

  it("Qwen2.5-7B: 392 tensors of 2,523,136 numbers a rank, under PEFT's names", () => {
    const shapes = adapterShapes(sizes("qwen2", 28, 3584, 512, 18_944), 1)
    assert.strictEqual(shapes.size, 392)
    assert.strictEqual(count(shapes), 2_523_136)
    const expected: Array<string> = []
    for (let layer = 0; layer < 28; layer++) {
      for (const path of [
        "self_attn.q",
        "self_attn.k",
        "self_attn.v",
        "self_attn.o",
        "mlp.gate",
        "mlp.up",
        "mlp.down"
      ]) {
        for (const half of ["A", "B"])
          expected.push(`base_model.model.model.layers.${layer}.${path}_proj.lora_${half}.weight`)
      }
    }
    assert.sameMembers([...shapes.keys()], expected)
    const at = (name: string) => shapes.get(`base_model.model.model.layers.27.${name}.weight`)
    assert.deepStrictEqual(at("mlp.down_proj.lora_A"), [1, 18_944])
    assert.deepStrictEqual(at("self_attn.v_proj.lora_B"), [512, 1])
    assert.strictEqual(count(adapterShapes(sizes("qwen2", 28, 3584, 512, 18_944), 16)), 16 * 2_523_136)
    assert.strictEqual(adapterShapes(sizes("qwen2", 28, 3584, 512, 18_944), 1, ["q_proj", "v_proj"]).size, 112)
  })

  it("CodeLlama 7B and Qwen3 8B: the same names in as many layers", () => {
    const llama = adapterShapes(sizes("llama", 32, 4096, 4096, 11_008), 8)
    assert.strictEqual(llama.size, 448)
    assert.strictEqual(count(llama), 8 * 2_498_560)
    const qwen3 = adapterShapes(sizes("qwen3", 36, 4096, 1024, 12_288), 8)
    assert.strictEqual(qwen3.size, 504)
    assert.sameMembers(
      [...llama.keys()],
      [...qwen3.keys()].filter((name) => !/layers\.3[2-5]\./.test(name))
    )
  })

  it.effect("the whole adapter of 7B's 392 names goes to disk and comes back, at rank 1 and narrow sizes", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryFolder
      for (const modelType of ["qwen2", "llama", "qwen3"] as const) {
        const narrow: ModelConfig = { ...config, modelType, numLayers: 28 }
        const random = seeded(9)
        const tensors = new Map<LoraKey, LoraPair>()
        for (let layer = 0; layer < 28; layer++) {
          for (const module of linearModules) {
            const [out, input] = linearShapes(narrow)[module]
            const numbers = (length: number) => Float32Array.from({ length }, () => random() - 0.5)
            tensors.set(loraKey(layer, module), { a: numbers(input), b: numbers(out) })
          }
        }
        const adapter = {
          rank: 1,
          alpha: 2,
          useRslora: true,
          targetModules: linearModules,
          baseModel: "org/7b",
          tensors
        }
        yield* writeAdapter(directory, narrow, adapter)
        const names = yield* Effect.scoped(
          Effect.map(openSafetensors(weights(directory)), (file) => [...file.tensors.keys()])
        )
        assert.lengthOf(names, 392)
        assert.sameMembers(names, [...adapterShapes(narrow, 1).keys()])
        assert.deepStrictEqual(yield* readAdapter(directory, narrow), {
          ...adapter,
          targetModules: [...linearModules],
          scale: 2
        })
      }
    }).pipe(Effect.provide(platform))
  )
})

describe("ValueHeadFile", () => {
  it.effect("round trip under the field's names; wrong width, NaN and absence are named", () =>
    Effect.gen(function* () {
      const directory = `${yield* temporaryFolder}/adapter`
      const head = { weight: Float32Array.of(1, -2, 0.5), bias: 0.25 }
      yield* failsWith(readValueHead(directory, 3), "Missing")
      yield* writeValueHead(directory, head)
      assert.deepStrictEqual(yield* readValueHead(directory, 3), head)
      const file = yield* openSafetensors(`${directory}/value_head.safetensors`)
      assert.deepStrictEqual(file.tensors.get("v_head.summary.weight")?.shape, [1, 3])
      assert.deepStrictEqual(file.tensors.get("v_head.summary.bias")?.shape, [1])
      yield* failsWith(readValueHead(directory, 4), "ShapeMismatch")
      yield* failsWith(writeValueHead(directory, { ...head, bias: Number.NaN }), "NotFinite")
      yield* failsWith(writeValueHead(directory, { weight: new Float32Array(0), bias: 0 }), "Invalid")
      yield* writeValueHead(directory, head, "reward_head.safetensors")
      assert.deepStrictEqual(yield* readValueHead(directory, 3, "reward_head.safetensors"), head)
    }).pipe(Effect.provide(platform))
  )
})
