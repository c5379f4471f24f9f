/** The script that writes random checkpoints: its folders load, and a tensor's values follow from seed and name alone. */
import { execFile } from "node:child_process"
import { fileURLToPath } from "node:url"
import { promisify } from "node:util"
import { assert, layer } from "@effect/vitest"
import { Effect, FileSystem } from "effect"
import { type Dtype, type RandomCheckpoint, writeRandomCheckpoint } from "../scripts/random-checkpoint.ts"
import { loadConfig, loadModel, loadTokenizer, makeScorer, openModelWeights, tensorShapes } from "../src/index.ts"
import { modelPresets as presets } from "../src/Presets.ts"
import { DeviceLayer } from "./reference/device.ts"
import { temporaryFolder } from "./support.ts"

const tinies = Object.entries(presets).filter(([name]) => name.startsWith("tiny-"))
const tinyCoder = fileURLToPath(new URL("../assets/tiny-coder", import.meta.url))

const written = Effect.fnUntraced(function* (options: Omit<RandomCheckpoint, "directory">) {
  const directory = `${yield* temporaryFolder}/model`
  const parameters = yield* writeRandomCheckpoint({ ...options, directory })
  return { directory, parameters }
})

layer(DeviceLayer)("random checkpoints", (it) => {
  for (const [name, config] of tinies) {
    it.effect(`${name} loads and scores`, () =>
      Effect.gen(function* () {
        const { directory, parameters } = yield* written({ config, dtype: "bf16", seed: 1, shardBytes: 1e9 })
        const model = yield* loadModel(directory)
        assert.deepStrictEqual(model.config, config)
        const sizes = [...tensorShapes(config).values()].map((shape) => shape.reduce((a, b) => a * b, 1))
        assert.strictEqual(
          parameters,
          sizes.reduce((a, b) => a + b, 0)
        )
        const scorer = yield* makeScorer(model.decoder, { capacity: 16, rank: 0 })
        const [scores] = yield* scorer.score(null, [{ ids: [1, 500, 7, 300, 2], loss: (t) => t > 0 }])
        assert.isTrue([...scores!.logProbs].every((x) => Number.isFinite(x) && Math.abs(x + Math.log(512)) < 1))
      })
    )
  }

  it.effect("types, shards and seeds: the same numbers, rounded; another seed gives others", () =>
    Effect.gen(function* () {
      const config = presets["tiny-qwen3"]!
      const values = Effect.fnUntraced(function* (dtype: Dtype, seed: number, shardBytes: number, tensor: string) {
        const { directory } = yield* written({ config, dtype, seed, shardBytes })
        const fs = yield* FileSystem.FileSystem
        const files = (yield* fs.readDirectory(directory)).filter((file) => file.endsWith(".safetensors"))
        const weights = yield* openModelWeights(directory)
        assert.deepStrictEqual([...weights.tensors.keys()].sort(), [...tensorShapes(config).keys()].sort())
        return { files: files.sort(), data: yield* weights.read(tensor) }
      }, Effect.scoped)
      const gate = "model.layers.1.mlp.gate_proj.weight"
      const whole = yield* values("f32", 3, 1e9, gate)
      assert.deepStrictEqual(whole.files, ["model.safetensors"])
      const mean = whole.data.reduce((a, b) => a + b, 0) / whole.data.length
      const variance = whole.data.reduce((a, b) => a + (b - mean) ** 2, 0) / whole.data.length
      const bound = 4 / Math.sqrt(whole.data.length)
      assert.isBelow(Math.abs(mean) / 0.02, bound)
      assert.isBelow(Math.abs(Math.sqrt(variance) / 0.02 - 1), bound)
      const split = yield* values("f32", 3, 40_000, gate)
      assert.isAbove(split.files.length, 5)
      assert.deepStrictEqual(split.data, whole.data)
      for (const [dtype, precision] of [
        ["bf16", 2 ** -8],
        ["f16", 2 ** -11]
      ] as const) {
        const half = yield* values(dtype, 3, 50_000, gate)
        const off = half.data.filter((x, i) => {
          return Math.abs(x - whole.data[i]!) > precision * Math.abs(whole.data[i]!) + 2 ** -25
        })
        assert.strictEqual(half.data.length, whole.data.length)
        assert.lengthOf(off, 0)
      }
      const other = yield* values("f32", 4, 1e9, gate)
      assert.isAbove(other.data.filter((x, i) => x !== whole.data[i]).length, 0.99 * whole.data.length)
      const norm = yield* values("f32", 3, 1e9, "model.layers.0.self_attn.q_norm.weight")
      assert.isTrue(norm.data.every((x) => x > 0.7 && x < 1.3))
    })
  )

  it.effect("as a command: writes with a tokenizer, refuses a folder in use and wrong words", () =>
    Effect.gen(function* () {
      const script = fileURLToPath(new URL("../scripts/random-checkpoint.ts", import.meta.url))
      const run = (...args: ReadonlyArray<string>) =>
        Effect.promise(() =>
          promisify(execFile)(process.execPath, [script, ...args]).then(
            ({ stdout }) => ({ ok: true, text: stdout }),
            (error: { readonly stderr: string }) => ({ ok: false, text: error.stderr })
          )
        )
      const out = `${yield* temporaryFolder}/new/model`
      const arguments_ = ["--preset", "tiny-llama", "--out", out, "--layers", "1", "--tokenizer", tinyCoder]
      const first = yield* run(...arguments_)
      assert.isTrue(first.ok, first.text)
      assert.include(first.text, "parameters in bf16")
      assert.strictEqual((yield* loadConfig(out)).numLayers, 1)
      const tokenizer = yield* loadTokenizer(out)
      assert.isAbove(tokenizer.encode("int main(void)").length, 1)
      const second = yield* run(...arguments_)
      assert.isFalse(second.ok)
      assert.include(second.text, "holds a model already")
      for (const [args, word] of [
        [["--preset", "gpt-5", "--out", out], "usage"],
        [["--preset", "tiny-llama", "--out", `${out}2`, "--layers", "0"], "--layers"],
        [["--preset", "tiny-llama", "--out", `${out}2`, "--what"], "--what"]
      ] as const) {
        const wrong = yield* run(...args)
        assert.isFalse(wrong.ok)
        assert.include(wrong.text, word)
      }
    })
  )
})
