/** Merged models and PEFT folders: numbers against correctly rounded doubles, bytes of what is not touched, faults. */
import { assert, describe, it, layer } from "@effect/vitest"
import { Effect, FileSystem } from "effect"
import {
  exportMerged,
  exportPeft,
  type LinearModule,
  loadAdapter,
  loadConfig,
  loadModel,
  makeScorer,
  openModelWeights,
  readAdapter,
  type StoredDtype,
  tensorShapes,
  writeAdapter,
  writeSafetensors,
  writeShardedSafetensors
} from "../src/index.ts"
import { encodeBf16, encodeF16, roundToOdd } from "../src/internal/half.ts"
import {
  allModules,
  familyShapes,
  plain,
  randomPairs,
  randomSequences,
  type Shape,
  writeCheckpoint
} from "./reference/checkpoint.ts"
import { DeviceLayer } from "./reference/device.ts"
import { below, failsWith, platform, seeded, temporaryFolder } from "./support.ts"

/** Nearest number with `bits` of precision and a smallest exponent, ties to even: arithmetic, no bit patterns. */
const nearest = (x: number, bits: number, least: number): number => {
  const size = Math.abs(x)
  if (size === 0) return x
  const quantum = 2 ** (Math.max(Math.floor(Math.log2(size)), least) - bits + 1)
  const q = size / quantum
  const low = Math.floor(q)
  const up = q - low > 0.5 || (q - low === 0.5 && low % 2 !== 0)
  return Math.sign(x) * (up ? low + 1 : low) * quantum
}
const rounded: Readonly<Record<StoredDtype, (x: number) => number>> = {
  F32: Math.fround,
  F16: (x) => nearest(x, 11, -14),
  BF16: (x) => nearest(x, 8, -126)
}

const readAll = (directory: string) =>
  Effect.scoped(
    Effect.gen(function* () {
      const file = yield* openModelWeights(directory)
      const tensors = new Map<string, { dtype: string; data: Float32Array; bytes: Uint8Array }>()
      for (const [name, { dtype }] of file.tensors) {
        tensors.set(name, { dtype, data: yield* file.read(name), bytes: yield* file.readBytes(name) })
      }
      return tensors
    })
  )

/** A base stored as `dtype`, and an adapter beside it. */
const make = Effect.fnUntraced(function* (
  directory: string,
  options: {
    readonly shape?: Shape
    readonly dtype?: StoredDtype
    readonly rank?: number
    readonly modules?: ReadonlyArray<LinearModule>
    readonly useRslora?: boolean
    readonly shardBytes?: number
  } = {}
) {
  const fs = yield* FileSystem.FileSystem
  const { shape = plain, dtype = "F32", rank = 3, modules = allModules, useRslora = false } = options
  const [base, adapter] = [`${directory}/base`, `${directory}/adapter`]
  const tensors = yield* writeCheckpoint(base, shape, 1)
  const config = yield* loadConfig(base)
  const text = yield* fs.readFileString(`${base}/config.json`)
  yield* fs.writeFileString(`${base}/config.json`, text.replace("10000,", '1000000.0,"torch_dtype":"float32",'))
  const shapes = tensorShapes(config)
  const list = [...(yield* readAll(base))].map(([name, { data }]) => ({ name, data, shape: shapes.get(name)! }))
  yield* writeSafetensors(`${base}/model.safetensors`, list, { dtype })
  if (options.shardBytes !== undefined) {
    const stored = yield* readAll(base)
    yield* writeShardedSafetensors(
      base,
      list.map(({ name, shape }) => ({ name, shape, dtype, produce: (emit) => emit(stored.get(name)!.bytes) })),
      { shardBytes: options.shardBytes }
    )
  }
  const pairs = randomPairs(shape, rank, 2, modules)
  yield* writeAdapter(adapter, config, { rank, alpha: 5, useRslora, targetModules: modules, tensors: pairs })
  return {
    base,
    adapter,
    out: `${directory}/out`,
    config,
    pairs,
    tensors,
    rank,
    scale: 5 / (useRslora ? rank ** 0.5 : rank)
  }
})

/** W + scale · B A in doubles, term by term. */
const product = (
  weight: Float32Array,
  pair: { a: Float32Array; b: Float32Array },
  rank: number,
  scale: number
): Float64Array => {
  const width = pair.a.length / rank
  return Float64Array.from(weight, (w, i) => {
    const [row, column] = [Math.floor(i / width), i % width]
    let sum = 0
    for (let r = 0; r < rank; r++) sum += pair.b[row * rank + r]! * pair.a[r * width + column]!
    return w + scale * sum
  })
}

describe("rounding through odd", () => {
  it("equals rounding once, at ties, around them, at subnormals and beyond the largest number", () => {
    const random = seeded(1)
    const values = Array.from({ length: 20_000 }, (_, i) => {
      const kind = i % 4
      const sign = i % 2 === 0 ? 1 : -1
      const exponent =
        kind === 0 ? -30 + below(random, 50) : kind === 1 ? -140 + below(random, 260) : -24 + below(random, 40)
      const mantissa = 1 + (kind === 2 ? below(random, 4096) / 4096 : random())
      // ties of the 16-bit formats, moved by less than f32 can tell
      return sign * mantissa * 2 ** exponent * (kind === 2 ? 1 + [0, 1, -1][i % 3]! * 2 ** -40 : 1)
    })
    const source = Float64Array.from(values)
    const [bf16, f16] = [encodeBf16(roundToOdd(source)), encodeF16(roundToOdd(source))]
    for (const [i, x] of values.entries()) {
      const exact = rounded.BF16(x)
      assert.strictEqual(new Float32Array(Uint32Array.of(bf16[i]! << 16).buffer)[0], Math.fround(exact), `${x}`)
      const half = rounded.F16(x)
      const bits = encodeF16(
        Float32Array.of(Math.abs(half) >= 65_520 ? Math.sign(half) * Number.POSITIVE_INFINITY : half)
      )
      assert.strictEqual(f16[i], bits[0], `${x}`)
    }
    // through plain f32 this tie is made up: just above the middle of two bf16 numbers
    const above = 1 + 2 ** -8 + 2 ** -40
    assert.strictEqual(encodeBf16(Float32Array.of(above))[0], 0x3f80)
    assert.strictEqual(encodeBf16(roundToOdd(Float64Array.of(above)))[0], 0x3f81)
  })
})

describe("export merged", () => {
  for (const [dtype, rank, modules] of [
    ["F32", 3, allModules],
    ["BF16", 8, allModules],
    ["F16", 5, ["q_proj", "down_proj"]]
  ] as const) {
    it.effect(`${dtype}, rank ${rank}: each number is the double rounded once; the rest is the base to the byte`, () =>
      Effect.gen(function* () {
        const { base, adapter, out, pairs, scale } = yield* make(yield* temporaryFolder, { dtype, rank, modules })
        const summary = yield* exportMerged({ model: base, adapters: [adapter], out })
        const [before, after] = [yield* readAll(base), yield* readAll(out)]
        assert.deepStrictEqual([...after.keys()], [...before.keys()])
        let merged = 0
        for (const [name, { dtype: stored, data, bytes }] of before) {
          const now = after.get(name)!
          assert.strictEqual(now.dtype, stored)
          const match = /layers\.(\d+)\.\w+\.(\w+_proj)\.weight$/.exec(name)
          const pair = match === null ? undefined : pairs.get(`layers.${Number(match[1])}.${match[2] as LinearModule}`)
          if (pair === undefined) assert.deepStrictEqual(now.bytes, bytes, name)
          else {
            merged++
            const expected = Float32Array.from(product(data, pair, rank, scale), rounded[dtype])
            assert.deepStrictEqual(now.data, expected, name)
          }
        }
        assert.strictEqual(merged, 2 * modules.length)
        assert.deepStrictEqual({ merged: summary.merged, tensors: summary.tensors }, { merged, tensors: before.size })
      }).pipe(Effect.provide(platform))
    )
  }

  for (const shape of familyShapes) {
    it.effect(`${shape.name}: every linear module of the family takes its product, nothing else changes`, () =>
      Effect.gen(function* () {
        const { base, adapter, out, pairs, rank, scale } = yield* make(yield* temporaryFolder, { shape })
        yield* exportMerged({ model: base, adapters: [adapter], out })
        const after = yield* readAll(out)
        const changed = new Set<string>()
        for (const [name, { data }] of yield* readAll(base)) {
          const now = after.get(name)!.data
          if (data.some((x, i) => x !== now[i])) changed.add(name)
        }
        const expected = [...pairs.keys()].map((key) => {
          const [, layer, module] = key.split(".")
          return `model.layers.${layer}.${/^[qkvo]/.test(module!) ? "self_attn" : "mlp"}.${module}.weight`
        })
        assert.sameMembers([...changed], expected)
        const key = `layers.${shape.layers - 1}.o_proj` as const
        const name = `model.layers.${shape.layers - 1}.self_attn.o_proj.weight`
        const before = (yield* readAll(base)).get(name)!.data
        const exact = Float32Array.from(product(before, pairs.get(key)!, rank, scale))
        assert.deepStrictEqual(after.get(name)!.data, exact)
      }).pipe(Effect.provide(platform))
    )
  }

  it.effect("the base's shards are kept, others are made on demand; progress reaches the total", () =>
    Effect.gen(function* () {
      const fs = yield* FileSystem.FileSystem
      const { base, adapter, out } = yield* make(yield* temporaryFolder, { shardBytes: 9000 })
      yield* fs.remove(`${base}/model.safetensors`, { force: true })
      const seen: Array<readonly [number, number]> = []
      const onProgress = (done: number, total: number) => Effect.sync(() => void seen.push([done, total]))
      const kept = yield* exportMerged({ model: base, adapters: [adapter], out, onProgress })
      assert.isAbove(kept.files.length, 3)
      const index = "model.safetensors.index.json"
      assert.deepStrictEqual(
        JSON.parse(yield* fs.readFileString(`${out}/${index}`)),
        JSON.parse(yield* fs.readFileString(`${base}/${index}`))
      )
      assert.sameMembers(yield* fs.readDirectory(out), yield* fs.readDirectory(base))
      assert.deepStrictEqual(seen.at(-1), [kept.totalBytes, kept.totalBytes])
      assert.isTrue(seen.every(([done], i) => i === 0 || done > seen[i - 1]![0]))
      for (const [shardBytes, files] of [
        [1, kept.tensors],
        [1e9, 1]
      ] as const) {
        const again = `${out}-${shardBytes}`
        assert.lengthOf(
          (yield* exportMerged({ model: base, adapters: [adapter], out: again, shardBytes })).files,
          files
        )
        assert.deepStrictEqual(
          new Map([...(yield* readAll(again))].sort(([a], [b]) => (a < b ? -1 : 1))),
          new Map([...(yield* readAll(out))].sort(([a], [b]) => (a < b ? -1 : 1)))
        )
      }
      yield* failsWith(exportMerged({ model: base, adapters: [adapter], out: `${out}-0`, shardBytes: 0 }), "Invalid")
    }).pipe(Effect.provide(platform))
  )

  it.effect("settings, tokenizer, templates and licence come along; weights of other formats do not", () =>
    Effect.gen(function* () {
      const fs = yield* FileSystem.FileSystem
      const { base, adapter, out } = yield* make(yield* temporaryFolder)
      const along = [
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.json",
        "merges.txt",
        "tokenizer.model",
        "chat_template.jinja",
        "README.md",
        "LICENSE",
        "LICENSE.txt",
        "NOTICE"
      ]
      const left = [
        "pytorch_model.bin",
        "model.gguf",
        "training_args.bin",
        ".gitattributes",
        "optimizer.pt",
        "notes.md"
      ]
      for (const name of [...along, ...left]) yield* fs.writeFileString(`${base}/${name}`, `{"eos_token_id":0} ${name}`)
      yield* fs.writeFileString(`${base}/generation_config.json`, '{ "eos_token_id": [0] }')
      yield* fs.makeDirectory(`${base}/original.model`)
      yield* exportMerged({ model: base, adapters: [adapter], out })
      assert.sameMembers(yield* fs.readDirectory(out), [...along, "config.json", "model.safetensors"])
      for (const name of [...along, "config.json"]) {
        assert.deepStrictEqual(yield* fs.readFile(`${out}/${name}`), yield* fs.readFile(`${base}/${name}`), name)
      }
      const before = yield* fs.readFileString(`${base}/config.json`)
      assert.include(before, "1000000.0")
      yield* exportMerged({ model: base, adapters: [adapter], out, dtype: "BF16", overwrite: true })
      assert.strictEqual(
        yield* fs.readFileString(`${out}/config.json`),
        before.replace('"torch_dtype":"float32"', '"torch_dtype":"bfloat16"')
      )
      assert.isTrue([...(yield* readAll(out)).values()].every(({ dtype }) => dtype === "BF16"))
      yield* fs.writeFileString(`${base}/config.json`, before.replace('"torch_dtype":"float32",', ""))
      yield* exportMerged({ model: base, adapters: [adapter], out, dtype: "F16", overwrite: true })
      const config = JSON.parse(yield* fs.readFileString(`${out}/config.json`))
      assert.strictEqual(config.torch_dtype, "float16")
      assert.deepStrictEqual(yield* loadConfig(out), yield* loadConfig(base))
    }).pipe(Effect.provide(platform))
  )

  it.effect("what cannot be done is said before or undone after: no folder, or the old one", () =>
    Effect.gen(function* () {
      const fs = yield* FileSystem.FileSystem
      const root = yield* temporaryFolder
      const { base, adapter, out, config, pairs } = yield* make(root)
      const attempt = (options: Partial<Parameters<typeof exportMerged>[0]>) =>
        exportMerged({ model: base, adapters: [adapter], out, ...options })
      const nothing = Effect.map(fs.readDirectory(root), (names) => assert.sameMembers(names, ["base", "adapter"]))
      yield* failsWith(attempt({ model: `${root}/none` }), "Missing")
      yield* failsWith(attempt({ adapters: [`${root}/none`] }), "Missing")
      for (const out of ["", "/", "//"]) yield* failsWith(attempt({ out }), "Invalid")
      for (const out of [base, `${base}/`, root, `${base}/../base`]) {
        assert.include((yield* failsWith(attempt({ out, overwrite: true }), "Invalid")).message, "which is read")
      }
      assert.include((yield* failsWith(attempt({ out: "/proc" }), "Invalid")).message, "root of a file system")
      yield* failsWith(attempt({ out: `${base}/config.json` }), "Invalid")
      yield* failsWith(attempt({ out: `${base}/config.json/x` }), "Io")
      yield* failsWith(attempt({ out: "/proc/srcode" }), "Missing")
      yield* nothing
      // found in the middle of the work: an adapter too large for f16
      const huge = new Map(pairs).set("layers.1.down_proj", {
        a: pairs.get("layers.1.down_proj")!.a,
        b: pairs.get("layers.1.down_proj")!.b.map(() => 1e6)
      })
      const hugeFolder = `${root}/huge`
      yield* writeAdapter(hugeFolder, config, { rank: 3, alpha: 5, targetModules: allModules, tensors: huge })
      const adapters = [hugeFolder]
      const reason = yield* failsWith(attempt({ adapters, dtype: "F16" }), "NotFinite")
      assert.include(reason.message, "model.layers.1.mlp.down_proj.weight")
      yield* fs.remove(hugeFolder, { recursive: true })
      yield* nothing
      // a folder that is there
      yield* fs.makeDirectory(out)
      yield* attempt({})
      const first = yield* readAll(out)
      assert.include((yield* failsWith(attempt({}), "Invalid")).message, "--overwrite")
      yield* writeAdapter(hugeFolder, config, { rank: 3, alpha: 5, targetModules: allModules, tensors: huge })
      yield* failsWith(attempt({ adapters, dtype: "F16", overwrite: true }), "NotFinite")
      assert.deepStrictEqual(yield* readAll(out), first)
      yield* attempt({ adapters, overwrite: true })
      assert.notDeepEqual(yield* readAll(out), first)
      assert.sameMembers(yield* fs.readDirectory(root), ["base", "adapter", "huge", "out"])
      const precious = `${root}/precious`
      yield* fs.makeDirectory(precious)
      yield* fs.writeFileString(`${precious}/thesis.tex`, "")
      assert.include((yield* failsWith(attempt({ out: precious, overwrite: true }), "Invalid")).message, "config.json")
      assert.deepStrictEqual(yield* fs.readDirectory(precious), ["thesis.tex"])
    }).pipe(Effect.provide(platform))
  )
})

layer(DeviceLayer)("a merged model on the device", (it) => {
  it.effect("scores like base and adapter, tied heads stay tied, two adapters add up", () =>
    Effect.gen(function* () {
      const root = yield* temporaryFolder
      const { base, adapter, out, config, pairs } = yield* make(root, { useRslora: true })
      const second = `${root}/second`
      const more = randomPairs(plain, 6, 9, ["v_proj", "up_proj"])
      yield* writeAdapter(second, config, { rank: 6, alpha: 2, targetModules: ["v_proj", "up_proj"], tensors: more })
      const sequences = randomSequences(plain.vocab, [9, 17, 4], 3)
      const scores = Effect.fnUntraced(function* (directory: string, adapter: string | null) {
        const model = yield* loadModel(directory)
        const lora = adapter === null ? null : yield* loadAdapter(model, adapter)
        const scorer = yield* makeScorer(model.decoder, { capacity: 64, rank: lora?.rank ?? 1 })
        return (yield* scorer.score(lora, sequences)).flatMap((s) => [...s.logProbs])
      })
      const near = (actual: ReadonlyArray<number>, expected: ReadonlyArray<number>, tolerance: number) =>
        actual.forEach((x, i) => {
          assert.closeTo(x, expected[i]!, tolerance * (1 + Math.abs(expected[i]!)))
        })
      yield* exportMerged({ model: base, adapters: [adapter], out })
      const expected = yield* scores(base, adapter)
      near(yield* scores(out, null), expected, 1e-5)
      assert.isFalse((yield* readAll(out)).has("lm_head.weight"))
      yield* exportMerged({ model: base, adapters: [adapter], out: `${out}16`, dtype: "BF16" })
      near(yield* scores(`${out}16`, null), expected, 5e-2)
      yield* exportMerged({ model: base, adapters: [adapter, second], out: `${out}2` })
      near(yield* scores(`${out}2`, null), yield* scores(out, second), 1e-5)
      assert.isAbove(Math.abs(expected[0]! - (yield* scores(base, null))[0]!), 1e-3)
      assert.strictEqual(pairs.size, 14)
    })
  )
})

describe("export peft", () => {
  it.effect("a folder of PEFT's comes out with the same tensors to the byte and the modules listed", () =>
    Effect.gen(function* () {
      const fs = yield* FileSystem.FileSystem
      const root = yield* temporaryFolder
      const { base, adapter, config, pairs, out } = yield* make(root, { modules: ["q_proj", "v_proj"] })
      yield* writeAdapter(
        adapter,
        config,
        { rank: 3, alpha: 5, targetModules: ["q_proj", "v_proj"], tensors: pairs },
        "BF16"
      )
      const theirs = {
        peft_type: "LORA",
        task_type: "CAUSAL_LM",
        r: 3,
        lora_alpha: 5,
        target_modules: "all-linear",
        base_model_name_or_path: null,
        lora_dropout: 0.1,
        use_rslora: true,
        megatron_config: null
      }
      yield* fs.writeFileString(`${adapter}/adapter_config.json`, JSON.stringify(theirs))
      yield* fs.writeFileString(`${adapter}/value_head.safetensors`, "not for serving")
      yield* exportPeft({ model: base, adapter, out })
      const weights = "adapter_model.safetensors"
      assert.sameMembers(yield* fs.readDirectory(out), [weights, "adapter_config.json"])
      assert.deepStrictEqual(yield* fs.readFile(`${out}/${weights}`), yield* fs.readFile(`${adapter}/${weights}`))
      const written = JSON.parse(yield* fs.readFileString(`${out}/adapter_config.json`))
      assert.deepInclude(written, {
        target_modules: ["q_proj", "v_proj"],
        base_model_name_or_path: base,
        use_rslora: true,
        lora_alpha: 5,
        r: 3,
        bias: "none",
        fan_in_fan_out: false,
        inference_mode: true,
        modules_to_save: null,
        task_type: "CAUSAL_LM"
      })
      const options = { model: base, adapter, plainAlpha: true, baseName: "org/name", dtype: "F32" } as const
      yield* exportPeft({ ...options, out, overwrite: true })
      const [before, after] = [yield* readAdapter(adapter, config), yield* readAdapter(out, config)]
      assert.deepStrictEqual(after.tensors, before.tensors)
      assert.deepInclude(after, { useRslora: false, baseModel: "org/name", rank: 3 })
      assert.closeTo(after.scale, before.scale, 1e-15)
      yield* failsWith(exportPeft({ ...options, out }), "Invalid")
      yield* failsWith(exportPeft({ ...options, out: adapter, overwrite: true }), "Invalid")
      yield* failsWith(exportPeft({ ...options, adapter: base, out: `${root}/x` }), "Missing")
      const nan = new Map(pairs).set("layers.0.q_proj", {
        a: pairs.get("layers.0.q_proj")!.a.map(() => Number.NaN),
        b: pairs.get("layers.0.q_proj")!.b
      })
      const list = [...nan].flatMap(([key, { a, b }]) => {
        const [, layer, module] = key.split(".")
        const name = `base_model.model.model.layers.${layer}.self_attn.${module}`
        return [
          { name: `${name}.lora_A.weight`, shape: [3, a.length / 3], data: a },
          { name: `${name}.lora_B.weight`, shape: [b.length / 3, 3], data: b }
        ]
      })
      yield* writeSafetensors(`${adapter}/${weights}`, list, { allowNonFinite: true })
      yield* failsWith(exportPeft({ model: base, adapter, out: `${root}/x` }), "NotFinite")
      assert.sameMembers(yield* fs.readDirectory(root), ["base", "adapter", "out"])
    }).pipe(Effect.provide(platform))
  )
})
