/** Merged models: numbers against correctly rounded doubles, bytes of what is not touched, faults. */
import { assert, describe, it, layer } from "@effect/vitest"
import { Effect, FileSystem } from "effect"
import {
  exportMerged,
  type LinearModule,
  loadAdapter,
  loadConfig,
  loadModel,
  makeScorer,
  writeAdapter
} from "../src/index.ts"
import { allModules, familyShapes, plain, randomPairs, randomSequences } from "./reference/checkpoint.ts"
import { DeviceLayer } from "./reference/device.ts"
import { product, readAll, rounded, writeBaseAndAdapter } from "./reference/exported.ts"
import { failsWith, platform, temporaryFolder } from "./support.ts"

describe("export merged", () => {
  for (const [dtype, rank, modules] of [
    ["F32", 3, allModules],
    ["BF16", 8, allModules],
    ["F16", 5, ["q_proj", "down_proj"]]
  ] as const) {
    it.effect(`${dtype}, rank ${rank}: each number is the double rounded once; the rest is the base to the byte`, () =>
      Effect.gen(function* () {
        const { base, adapter, out, pairs, scale } = yield* writeBaseAndAdapter(yield* temporaryFolder, {
          dtype,
          rank,
          modules
        })
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
        const { base, adapter, out, pairs, rank, scale } = yield* writeBaseAndAdapter(yield* temporaryFolder, {
          shape,
          rank: 6
        })
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
        const before = yield* readAll(base)
        for (const [i, [key, pair]] of [...pairs].entries()) {
          const [name, scaled] = [expected[i]!, product(before.get(expected[i]!)!.data, pair, rank, scale)]
          assert.deepStrictEqual(after.get(name)!.data, Float32Array.from(scaled), key)
        }
      }).pipe(Effect.provide(platform))
    )
  }

  it.effect("the base's shards are kept, others are made on demand; progress reaches the total", () =>
    Effect.gen(function* () {
      const fs = yield* FileSystem.FileSystem
      const { base, adapter, out } = yield* writeBaseAndAdapter(yield* temporaryFolder, { shardBytes: 9000 })
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
      const { base, adapter, out } = yield* writeBaseAndAdapter(yield* temporaryFolder)
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
      const { base, adapter, out, config, pairs } = yield* writeBaseAndAdapter(root)
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
      const { base, adapter, out, config, pairs } = yield* writeBaseAndAdapter(root, { useRslora: true })
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
