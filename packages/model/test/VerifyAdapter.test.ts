/** One fault at a time in a sound adapter folder: the finding it must give, at whom it points, and nothing else. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, FileSystem } from "effect"
import { linearModules, loadConfig } from "../src/Config.ts"
import { exportPeft } from "../src/Export.ts"
import { readAdapter, writeAdapter } from "../src/Peft.ts"
import { openSafetensors } from "../src/Safetensors.ts"
import { type TensorToWrite, writeSafetensors } from "../src/SafetensorsWriter.ts"
import { type Consumer, isRefused, type Severity, verifyAdapter } from "../src/VerifyAdapter.ts"
import { familyShapes, plain, randomPairs, writeCheckpoint } from "./reference/checkpoint.ts"
import { below, failsWith, platform, seeded, temporaryFolder } from "./support.ts"

const rank = 4
const prefix = "base_model.model.model.layers"

/** A base, an adapter for it, and ways to break the adapter. */
const make = Effect.fnUntraced(function* () {
  const fs = yield* FileSystem.FileSystem
  const root = yield* temporaryFolder
  const [base, adapter] = [`${root}/base`, `${root}/adapter`]
  yield* writeCheckpoint(base, plain, 1)
  const config = yield* loadConfig(base)
  const tensors = randomPairs(plain, rank, 2)
  yield* writeAdapter(adapter, config, { rank, alpha: 8, targetModules: linearModules, tensors, baseModel: "org/base" })
  const settings: Record<string, unknown> = JSON.parse(yield* fs.readFileString(`${adapter}/adapter_config.json`))
  const weights = `${adapter}/adapter_model.safetensors`
  const stored = yield* Effect.scoped(
    Effect.gen(function* () {
      const file = yield* openSafetensors(weights)
      const list: Array<TensorToWrite> = []
      for (const [name, { shape }] of file.tensors) list.push({ name, shape, data: yield* file.read(name) })
      return list
    })
  )
  return {
    root,
    base,
    adapter,
    config,
    stored,
    setSettings: (change: Record<string, unknown>) =>
      fs.writeFileString(`${adapter}/adapter_config.json`, JSON.stringify({ ...settings, ...change })),
    setTensors: (tensors: ReadonlyArray<TensorToWrite>) => writeSafetensors(weights, tensors, { allowNonFinite: true }),
    verify: verifyAdapter(adapter, { model: base, modelName: "org/base" }),
    verifyAlone: verifyAdapter(adapter)
  }
})

describe("verify adapter", () => {
  it.effect("a sound adapter has no findings, with its base and without, and the report says what it is", () =>
    Effect.gen(function* () {
      const { adapter, stored, verify, verifyAlone } = yield* make()
      const report = yield* verify
      const { findings, ...said } = report
      assert.deepStrictEqual(findings, [])
      assert.deepStrictEqual(said, {
        directory: adapter,
        rank: 4,
        alpha: 8,
        scale: 2,
        baseModel: "org/base",
        tensors: 28,
        parameters: stored.reduce((sum, { data }) => sum + data.length, 0),
        dtypes: ["F32"]
      })
      assert.isFalse(isRefused(report))
      assert.deepStrictEqual((yield* verifyAlone).findings, [])
    }).pipe(Effect.provide(platform))
  )

  it.effect("what writeAdapter and export peft write is sound for every family", () =>
    Effect.gen(function* () {
      const root = yield* temporaryFolder
      for (const [i, shape] of familyShapes.entries()) {
        const [base, adapter, out] = [`${root}/${i}`, `${root}/${i}-adapter`, `${root}/${i}-out`]
        yield* writeCheckpoint(base, shape, i)
        const config = yield* loadConfig(base)
        const tensors = randomPairs(shape, rank, i)
        yield* writeAdapter(adapter, config, {
          rank,
          alpha: 8,
          useRslora: true,
          targetModules: linearModules,
          tensors,
          baseModel: "org/base"
        })
        const [first] = (yield* verifyAdapter(adapter, { model: base, modelName: "org/base@main" })).findings
        assert.deepInclude(first, { severity: "warning", code: "rslora", consumers: ["llama.cpp"] })
        yield* exportPeft({ model: base, adapter, out, plainAlpha: true })
        assert.deepStrictEqual((yield* verifyAdapter(out, { model: base, modelName: "org/base" })).findings, [])
      }
    }).pipe(Effect.provide(platform))
  )

  const settingsCases: ReadonlyArray<
    readonly [Record<string, unknown>, Severity, string, ReadonlyArray<Consumer>, string]
  > = [
    [{ peft_type: "IA3" }, "error", "not-lora", ["vllm", "srcode"], "IA3"],
    [{ peft_type: undefined }, "error", "not-lora", ["peft", "vllm", "srcode"], "peft_type is absent"],
    [{ task_type: null }, "warning", "no-task", ["peft"], "CAUSAL_LM"],
    [{ task_type: "SEQ_CLS" }, "warning", "other-task", ["peft", "vllm"], "SEQ_CLS"],
    [{ task_type: "POETRY" }, "error", "unknown-task", ["peft"], "POETRY"],
    [{ lora_alpha: "16" }, "error", "alpha", ["peft", "vllm", "srcode"], "number"],
    [{ lora_alpha: undefined }, "error", "alpha", ["peft", "vllm", "srcode"], "lora_alpha is absent"],
    [{ lora_alpha: 0 }, "warning", "alpha-zero", ["peft", "vllm"], "does nothing"],
    [{ lora_alpha: -8 }, "warning", "alpha-negative", ["peft", "vllm"], "subtracted"],
    [{ lora_alpha: 400 }, "warning", "scale", ["peft", "vllm"], "the scale is 100"],
    [{ use_rslora: "yes" }, "error", "rslora-type", ["peft", "vllm", "srcode"], "true or false"],
    [{ use_rslora: true }, "warning", "rslora", ["llama.cpp"], "--plain-alpha"],
    [{ use_dora: true }, "error", "option", ["vllm", "llama.cpp", "srcode"], "DoRA"],
    [{ modules_to_save: ["lm_head"] }, "error", "option", ["vllm", "srcode"], 'modules_to_save = ["lm_head"]'],
    [{ bias: "all" }, "error", "option", ["vllm", "srcode"], "bias"],
    [{ lora_bias: true }, "error", "option", ["vllm", "srcode"], "biases"],
    [{ rank_pattern: { q_proj: 8 } }, "error", "option", ["vllm", "srcode"], "alpha / r"],
    [{ alpha_pattern: { q_proj: 8 } }, "error", "option", ["vllm", "srcode"], "alpha / r"],
    [{ init_lora_weights: "pissa_niter_4" }, "error", "option", ["vllm", "srcode"], "changes the base"],
    [{ layers_to_transform: [0] }, "error", "option", ["srcode"], "layers_to_transform"],
    [{ layer_replication: [[0, 1]] }, "error", "option", ["vllm", "srcode"], "layer_replication"],
    [{ fan_in_fan_out: true }, "error", "fan-in-fan-out", ["srcode"], "GPT-2"],
    [{ target_modules: "all-linear" }, "warning", "targets-not-expanded", ["vllm", "llama.cpp"], "export peft"],
    [{ target_modules: ".*_proj" }, "error", "targets-pattern", ["srcode"], "list the modules"],
    [{ target_modules: undefined }, "error", "no-targets", ["peft", "vllm", "srcode"], "target_modules is absent"],
    [{ target_modules: [] }, "error", "no-targets", ["peft", "vllm", "srcode"], "list the modules"],
    [
      { target_modules: [...linearModules, "lm_head"] },
      "error",
      "target-embedding",
      ["srcode", "llama.cpp"],
      "tied embeddings"
    ],
    [{ target_modules: [...linearModules, "c_attn"] }, "error", "target-unknown", ["peft", "vllm", "srcode"], "c_attn"],
    [{ base_model_name_or_path: null }, "warning", "no-base-name", ["peft", "llama.cpp"], "--base-name"],
    [{ base_model_name_or_path: "org/other" }, "warning", "other-base", ["peft", "llama.cpp"], "org/other"],
    [{ from_the_future: 1 }, "warning", "unknown-option", ["peft"], "from_the_future"]
  ]

  it.effect(`${settingsCases.length} settings, one finding each`, () =>
    Effect.gen(function* () {
      const { setSettings, verify } = yield* make()
      for (const [change, severity, code, consumers, text] of settingsCases) {
        yield* setSettings(change)
        const report = yield* verify
        assert.lengthOf(report.findings, 1, JSON.stringify([change, report.findings]))
        assert.deepInclude(report.findings[0], { severity, code, consumers })
        assert.include(report.findings[0]?.message, text)
        assert.strictEqual(isRefused(report), severity === "error")
      }
    }).pipe(Effect.provide(platform))
  )

  it.effect("ranks: whole, up to 512, with the flag that vLLM needs above 16", () =>
    Effect.gen(function* () {
      const { adapter, config, setSettings, verify } = yield* make()
      for (const [r, code, text] of [
        [16, undefined, ""],
        [17, "rank-flag", "--max-lora-rank 32"],
        [64, "rank-flag", "--max-lora-rank 64"],
        [300, "rank-flag", "--max-lora-rank 320"],
        [513, "rank-too-large", "up to 512"]
      ] as const) {
        const tensors = randomPairs(plain, r, 3)
        const settings = { rank: r, alpha: r, targetModules: linearModules, tensors, baseModel: "org/base" }
        yield* writeAdapter(adapter, config, settings)
        const { findings } = yield* verify
        assert.deepStrictEqual(
          findings.map((f) => f.code),
          code === undefined ? [] : [code]
        )
        assert.include(findings[0]?.message ?? "", text)
      }
      for (const r of [0, -1, 2.5, "8", null, undefined, [8]]) {
        yield* setSettings({ r })
        const { findings } = yield* verify
        assert.deepInclude(findings[0], { severity: "error", code: "rank", consumers: ["peft", "vllm", "srcode"] })
      }
    }).pipe(Effect.provide(platform))
  )

  it.effect("tensors: names, halves, layers, shapes, dtypes, numbers", () =>
    Effect.gen(function* () {
      const { setTensors, stored, verify, verifyAlone } = yield* make()
      const zeros = (name: string, shape: ReadonlyArray<number>): TensorToWrite => ({
        name,
        shape,
        data: new Float32Array(shape.reduce((a, b) => a * b, 1)).fill(0.5)
      })
      const rename = (f: (name: string) => string) => stored.map((t) => ({ ...t, name: f(t.name) }))
      const q = `${prefix}.0.self_attn.q_proj.lora_A.weight`
      const change = (name: string, f: (tensor: TensorToWrite) => TensorToWrite) =>
        stored.map((t) => (t.name === name ? f(t) : t))
      const cases: ReadonlyArray<readonly [string, ReadonlyArray<TensorToWrite>, ReadonlyArray<string>, string]> = [
        ["half a pair", stored.filter(({ name }) => name !== q), ["missing"], `tensor "${q}": missing`],
        ["no layer 1", stored.filter(({ name }) => !name.includes("layers.1.")), ["missing"], "14 tensors"],
        ["a layer too many", [...stored, zeros(q.replace("0", "2"), [rank, 24])], ["beyond-layers"], "2 layers"],
        ["nothing", [], ["empty", "missing"], "no tensors"],
        [
          "DoRA",
          [...stored, zeros(`${prefix}.0.self_attn.q_proj.lora_magnitude_vector`, [8])],
          ["dora-tensor"],
          "DoRA"
        ],
        ["a head", [...stored, zeros("base_model.model.lm_head.weight", [9, 24])], ["whole-tensor"], "lm_head"],
        ["a bias", [...stored, zeros(`${prefix}.0.self_attn.q_proj.bias`, [9])], ["bias-tensor"], "bias"],
        [
          "an embedding",
          [...stored, zeros("base_model.model.model.embed_tokens.lora_embedding_A", [4, 9])],
          ["embedding-tensor"],
          "embedding"
        ],
        ["another module", [...stored, zeros(q.replace("q_proj", "c_attn"), [4, 24])], ["unknown-module"], "c_attn"],
        [
          "q_proj in the MLP",
          [...stored, zeros(q.replace("self_attn", "mlp"), [4, 24])],
          ["unknown-module"],
          "mlp.q_proj"
        ],
        [
          "adapter names",
          rename((name) => name.replace(".weight", ".default.weight")),
          ["adapter-name", "missing"],
          "28 tensors"
        ],
        ["no prefix", rename((name) => name.replace("base_model.model.", "")), ["prefix", "missing"], "28 tensors"],
        ["half a prefix", rename((name) => name.replace("model.model.", "model.")), ["prefix", "missing"], "prefix"],
        ["another rank", change(q, (t) => ({ ...t, shape: [2, 48] })), ["shape"], "[2, 48] where [4, 24]"],
        ["transposed", change(q, (t) => ({ ...t, shape: [24, 4] })), ["shape"], "transposed"],
        ["flat", change(q, (t) => ({ ...t, shape: [96] })), ["shape"], "[96]"],
        ["a rank too high", change(q, (t) => ({ ...zeros(t.name, [5, 24]) })), ["shape"], "r = 4 in the settings"],
        [
          "NaN",
          change(q, (t) => ({ ...t, data: t.data.map((x, i) => (i === 95 ? Number.NaN : x)) })),
          ["not-finite"],
          q
        ],
        [
          "infinite",
          change(q, (t) => ({ ...t, data: t.data.map((x, i) => (i === 0 ? -1 / 0 : x)) })),
          ["not-finite"],
          q
        ],
        [
          "untrained",
          stored.map((t) => (/_B/.test(t.name) ? { ...t, data: t.data.map(() => 0) } : t)),
          ["does-nothing"],
          "does nothing"
        ],
        [
          "half trained",
          stored.map((t) => (/up_proj.lora_A/.test(t.name) ? { ...t, data: t.data.map(() => -0) } : t)),
          ["idle-pairs"],
          "2 of 14"
        ],
        [
          "mixed",
          stored.map((t, i) => ({ ...t, dtype: i % 2 === 0 ? "BF16" : "F32" })),
          ["dtype-mixed"],
          "BF16 and F32"
        ]
      ]
      for (const [name, tensors, codes, text] of cases) {
        yield* setTensors(tensors)
        const { findings } = yield* verify
        assert.sameMembers(
          findings.map((f) => f.code),
          [...codes],
          `${name}: ${JSON.stringify(findings)}`
        )
        assert.isTrue(
          findings.some((f) => f.message.includes(text)),
          `${name}: ${JSON.stringify(findings)}`
        )
        for (const { message } of findings) assert.notMatch(message, /\n/)
      }
      // without a base, layers are held against each other and a layer too many makes the others incomplete
      yield* setTensors(change(q, () => zeros(q, [rank, 25])))
      assert.deepStrictEqual(
        (yield* verifyAlone).findings.map((f) => f.code),
        ["shape"]
      )
      yield* setTensors([...stored, zeros(q.replace("0", "2"), [rank, 24])])
      assert.include((yield* verifyAlone).findings[0]?.message, "13 tensors")
      yield* setTensors([...stored, zeros(q.replace(".0.", ".999999."), [rank, 24])])
      assert.strictEqual((yield* verifyAlone).findings[0]?.code, "missing")
    }).pipe(Effect.provide(platform))
  )

  it.effect("settings and tensors that disagree, another model's adapter, and folders that are none", () =>
    Effect.gen(function* () {
      const fs = yield* FileSystem.FileSystem
      const { adapter, base, root, setSettings, verify, verifyAlone } = yield* make()
      yield* setSettings({ target_modules: ["q_proj", "v_proj"] })
      assert.deepStrictEqual(
        (yield* verify).findings.map((f) => [f.code, f.message.slice(0, 10)]),
        [["not-listed", "20 tensors"]]
      )
      yield* setSettings({ r: 8 })
      assert.deepStrictEqual([...new Set((yield* verify).findings.map((f) => f.code))], ["shape"])
      yield* setSettings({ base_model_name_or_path: base })
      assert.deepStrictEqual(
        (yield* verify).findings.map((f) => [f.severity, f.code]),
        [["note", "local-base-name"]]
      )
      yield* setSettings({})
      const other = `${root}/other`
      yield* writeCheckpoint(other, { ...plain, hidden: 32, layers: 1 }, 5)
      const codes = (yield* verifyAdapter(adapter, { model: other })).findings.map((f) => f.code)
      assert.includeMembers(codes, ["beyond-layers", "shape", "other-base"])
      yield* failsWith(verifyAdapter(adapter, { model: `${root}/none` }), "Missing")
      yield* failsWith(verifyAdapter(`${root}/none`), "Missing")
      yield* failsWith(verifyAdapter(`${adapter}/adapter_config.json`), "Io")
      // files
      const move = (from: string, to: string) => fs.rename(`${adapter}/${from}`, `${adapter}/${to}`)
      const only = Effect.map(verifyAlone, ({ findings }) => findings.map((f) => `${f.code} ${f.subject}`))
      yield* move("adapter_model.safetensors", "adapter.safetensors")
      assert.deepStrictEqual(yield* only, ["file-missing adapter_model.safetensors"])
      assert.include((yield* verifyAlone).findings[0]?.message, "adapter.safetensors")
      yield* move("adapter.safetensors", "adapter_model.bin")
      assert.deepStrictEqual(yield* only, ["pickle adapter_model.bin"])
      yield* move("adapter_model.bin", "adapter_model.safetensors")
      yield* move("adapter_config.json", "config.json")
      assert.deepStrictEqual(yield* only, ["file-missing adapter_config.json"])
      yield* move("config.json", "adapter_config.json")
      yield* fs.makeDirectory(`${adapter}/.adapter.tmp`)
      assert.deepStrictEqual(yield* only, ["leftover .adapter.tmp"])
      const nested = (yield* verifyAdapter(root)).findings
      assert.deepStrictEqual(
        nested.map((f) => f.code),
        ["file-missing", "file-missing"]
      )
      assert.include(nested[0]?.message, `check ${root}/adapter`)
    }).pipe(Effect.provide(platform))
  )

  it.effect("150 corruptions of both files: a report each time, and never sound where reading refuses", () =>
    Effect.gen(function* () {
      const fs = yield* FileSystem.FileSystem
      const { adapter, config, verify } = yield* make()
      const random = seeded(3)
      let refused = 0
      for (const name of ["adapter_config.json", "adapter_model.safetensors"]) {
        const file = `${adapter}/${name}`
        const good = yield* fs.readFile(file)
        for (let round = 0; round < 75; round++) {
          const at = below(random, Math.min(good.length, 4000))
          const changes = [
            () => good.map((byte, i) => (i === at ? byte ^ (1 << below(random, 8)) : byte)),
            () => good.map((byte, i) => (i === at ? below(random, 256) : byte)),
            () => good.slice(0, at),
            () => Uint8Array.from([...good.slice(0, at), ...good.slice(at + 1 + below(random, 9))])
          ]
          yield* fs.writeFile(file, changes[round % changes.length]!())
          const report = yield* verify
          const readable = yield* Effect.match(readAdapter(adapter, config), {
            onFailure: () => false,
            onSuccess: () => true
          })
          if (!readable) refused++
          assert.isTrue(readable || isRefused(report), JSON.stringify(report.findings))
          for (const { message } of report.findings) assert.notMatch(message, /\n/)
        }
        yield* fs.writeFile(file, good)
      }
      assert.isAbove(refused, 80)
    }).pipe(Effect.provide(platform))
  )
})
