/** The files of a model folder: several as one, lying indexes, folders of other kinds, and weights of another config. */
import { execFileSync } from "node:child_process"
import { assert, describe, it } from "@effect/vitest"
import { Effect, FileSystem, Logger } from "effect"
import { loadConfig } from "../src/Config.ts"
import { checkModelTensors, openModelWeights } from "../src/ModelWeights.ts"
import { openSafetensors } from "../src/Safetensors.ts"
import { type TensorToWrite, writeSafetensors } from "../src/SafetensorsWriter.ts"
import { plain, type Shape, writeCheckpoint } from "./reference/checkpoint.ts"
import { failsWith, platform, seeded, temporaryFolder } from "./support.ts"

const tensor = (name: string, shape: ReadonlyArray<number>, seed: number) => {
  const random = seeded(seed)
  const size = shape.reduce((a, b) => a * b, 1)
  return { name, shape, data: Float32Array.from({ length: size }, () => random() * 4 - 2) }
}

/** Runs an effect and collects the warnings it logs. */
const withWarnings = Effect.fnUntraced(function* <A, E, R>(effect: Effect.Effect<A, E, R>) {
  const warnings: Array<string> = []
  const logger = Logger.make(({ message }) => warnings.push(String(message)))
  const value = yield* effect.pipe(Effect.provide(Logger.layer([logger])))
  return { value, warnings }
})

const twoShards = Effect.fnUntraced(function* () {
  const fs = yield* FileSystem.FileSystem
  const directory = yield* temporaryFolder
  const [a, b] = [tensor("a", [2, 2], 1), tensor("b", [3], 2)]
  const names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"] as const
  yield* writeSafetensors(`${directory}/${names[0]}`, [a])
  yield* writeSafetensors(`${directory}/${names[1]}`, [b, tensor("c", [1], 3)])
  const indexFile = `${directory}/model.safetensors.index.json`
  const index = (weightMap: unknown, metadata: unknown = {}) =>
    fs.writeFileString(indexFile, JSON.stringify({ metadata, weight_map: weightMap }))
  return { fs, directory, a, b, names, indexFile, index }
})

describe("the weights of a model folder", () => {
  it.effect("in several files read as one; a lying index is refused", () =>
    Effect.gen(function* () {
      const { fs, directory, a, b, names, indexFile, index } = yield* twoShards()
      yield* index({ a: names[0], b: names[1], c: names[1] })
      const model = yield* openModelWeights(directory)
      assert.deepStrictEqual(yield* model.read("a"), a.data)
      assert.deepStrictEqual(yield* model.readRows("b", 1, 2), b.data.slice(1, 2))
      yield* failsWith(model.read("d"), "Missing")
      const lies: ReadonlyArray<readonly [unknown, "Malformed" | "Missing" | "Io"]> = [
        [{ a: "../model-00001-of-00002.safetensors" }, "Malformed"],
        [{ a: `${directory}/${names[0]}` }, "Malformed"],
        [{ a: "sub/x.safetensors" }, "Malformed"],
        [{ a: "..safetensors" }, "Malformed"],
        [{ a: "model.bin" }, "Malformed"],
        [{ a: 7 }, "Malformed"],
        [{ a: null }, "Malformed"],
        [{ a: names[1] }, "Missing"],
        [{ a: "model-00003-of-00002.safetensors" }, "Missing"],
        [[], "Malformed"],
        [{}, "Malformed"],
        [undefined, "Malformed"]
      ]
      for (const [map, reason] of lies) {
        yield* index(map)
        yield* failsWith(openModelWeights(directory), reason)
      }
      yield* fs.writeFileString(indexFile, `{"weight_map":{"a":"${names[0]}","a":"${names[1]}"}}`)
      assert.include((yield* failsWith(openModelWeights(directory), "Malformed")).message, "twice")
      yield* index({ a: names[0], b: names[1] })
      yield* fs.truncate(`${directory}/${names[1]}`, 90)
      assert.include((yield* failsWith(openModelWeights(directory), "Malformed")).message, names[1])
      yield* writeSafetensors(`${directory}/model.safetensors`, [b])
      assert.deepStrictEqual([...(yield* openModelWeights(directory)).tensors.keys()], ["b"])
    }).pipe(Effect.provide(platform))
  )

  it.effect("a wrong total_size and unlisted tensors are warnings", () =>
    Effect.gen(function* () {
      const { directory, names, index } = yield* twoShards()
      const whole = { a: names[0], b: names[1], c: names[1] }
      for (const [map, metadata, texts] of [
        [whole, { total_size: 32 }, []],
        [whole, {}, []],
        [whole, { total_size: 33 }, ['total_size is "33", the listed tensors have 32 bytes']],
        [whole, { total_size: "much" }, ["total_size"]],
        [{ a: names[0], b: names[1] }, { total_size: 28 }, ['"c" in model-00002-of-00002.safetensors']]
      ] as const) {
        yield* index(map, metadata)
        const { value, warnings } = yield* withWarnings(openModelWeights(directory))
        assert.strictEqual(value.tensors.size, Object.keys(map).length)
        assert.lengthOf(warnings, texts.length, warnings.join())
        for (const [i, text] of texts.entries()) assert.include(warnings[i], text)
      }
    }).pipe(Effect.provide(platform))
  )

  it.effect("folders of another kind say what they are and what to do", () =>
    Effect.gen(function* () {
      const fs = yield* FileSystem.FileSystem
      for (const [files, texts] of [
        [
          ["config.json", "pytorch_model-00001-of-00002.bin"],
          ["pytorch_model-00001-of-00002.bin", "convert"]
        ],
        [["consolidated.00.pth"], ["consolidated.00.pth", "convert"]],
        [["model.gguf"], ["model.gguf"]],
        [
          ["adapter_config.json", "adapter_model.safetensors"],
          ["adapter", "--adapter"]
        ],
        [["model.fp16.safetensors"], ["model.fp16.safetensors", "rename"]],
        [["config.json"], ["neither"]]
      ] as const) {
        const directory = yield* temporaryFolder
        for (const name of files) yield* fs.writeFileString(`${directory}/${name}`, "x")
        const reason = yield* failsWith(openModelWeights(directory), "Missing")
        for (const text of [directory, ...texts]) assert.include(reason.message, text)
      }
      const directory = yield* temporaryFolder
      yield* failsWith(openModelWeights(`${directory}/none`), "Missing")
      yield* fs.writeFileString(`${directory}/file`, "x")
      yield* failsWith(openModelWeights(`${directory}/file`), "Io")
      yield* fs.makeDirectory(`${directory}/model.safetensors`)
      assert.include((yield* failsWith(openModelWeights(directory), "Io")).message, "a folder")
    }).pipe(Effect.provide(platform))
  )

  it.effect("JSON nested beyond any stack and texts of gigabytes are refused", () =>
    Effect.gen(function* () {
      const fs = yield* FileSystem.FileSystem
      const directory = yield* temporaryFolder
      const deep = (count: number) => `${'{"a":['.repeat(count)}${"]}".repeat(count)}`
      yield* fs.writeFileString(`${directory}/config.json`, `{"model_type":"qwen2","rope_scaling":${deep(200_000)}}`)
      assert.include((yield* failsWith(loadConfig(directory), "Malformed")).message, "nests deeper")
      yield* fs.writeFileString(`${directory}/config.json`, `{"model_type":"qwen2","rope_scaling":${deep(20)}}`)
      assert.notInclude((yield* failsWith(loadConfig(directory), "Malformed")).message, "nests deeper")
      yield* fs.truncate(`${directory}/config.json`, 5_000_000_000)
      assert.include((yield* failsWith(loadConfig(directory), "Malformed")).message, "5000000000 bytes")
    }).pipe(Effect.provide(platform))
  )

  it.effect("pipes and endless links in the place of files are errors, not waits", () =>
    Effect.gen(function* () {
      const fs = yield* FileSystem.FileSystem
      const directory = yield* temporaryFolder
      for (const name of ["config.json", "model.safetensors"]) execFileSync("mkfifo", [`${directory}/${name}`])
      yield* failsWith(loadConfig(directory), "Io")
      yield* failsWith(openSafetensors(`${directory}/model.safetensors`), "Io")
      for (const name of ["config.json", "model.safetensors"]) {
        yield* fs.remove(`${directory}/${name}`)
        yield* fs.symlink(name, `${directory}/${name}`)
      }
      yield* failsWith(loadConfig(directory), "Io")
      yield* failsWith(openModelWeights(directory), "Io")
    }).pipe(Effect.provide(platform))
  )
})

describe("weights against config.json", () => {
  const shape: Shape = { ...plain, vocab: 40 }

  /** Opens a checkpoint after its tensors went through `change`, and checks it. */
  const check = Effect.fnUntraced(
    function* (
      change: (tensors: Map<string, TensorToWrite>) => void,
      changed: Shape = shape,
      dtype: "F32" | "F16" | "BF16" = "F32"
    ) {
      const directory = yield* temporaryFolder
      const written = yield* writeCheckpoint(directory, changed, 5)
      const opened = yield* openSafetensors(`${directory}/model.safetensors`)
      const tensors = new Map(
        [...written].map(([name, data]) => [name, { name, data, shape: opened.tensors.get(name)?.shape ?? [] }])
      )
      change(tensors)
      yield* writeSafetensors(`${directory}/model.safetensors`, [...tensors.values()], { dtype })
      yield* checkModelTensors(yield* loadConfig(directory), yield* openModelWeights(directory))
    },
    Effect.catchTag("PlatformError", Effect.die)
  )
  const zeros = (name: string, ...size: ReadonlyArray<number>): TensorToWrite => ({
    name,
    shape: size,
    data: new Float32Array(size.reduce((a, b) => a * b, 1))
  })
  const q = "model.layers.1.self_attn.q_proj.weight"

  it.effect("what belongs together passes, with stored frequencies and a repeated tied head", () =>
    Effect.gen(function* () {
      for (const dtype of ["F32", "F16", "BF16"] as const) {
        for (const tied of [true, false]) yield* check(() => {}, { ...shape, tied }, dtype)
        yield* check(
          (tensors) => {
            const name = "model.layers.0.self_attn.rotary_emb.inv_freq"
            tensors.set(name, zeros(name, 4))
            tensors.set("lm_head.weight", { ...tensors.get("model.embed_tokens.weight")!, name: "lm_head.weight" })
          },
          shape,
          dtype
        )
      }
    }).pipe(Effect.provide(platform))
  )

  it.effect("missing, misshapen, surplus and contradicting tensors are named", () =>
    Effect.gen(function* () {
      const missing = yield* failsWith(
        check((tensors) => tensors.delete(q)),
        "Missing"
      )
      assert.include(missing.message, q)
      const turned = yield* failsWith(
        check((tensors) => tensors.set(q, { ...tensors.get(q)!, shape: [24, 32] })),
        "ShapeMismatch"
      )
      assert.match(turned.message, /q_proj.*\[24, 32\].*\[32, 24\]/)
      const flat = check((tensors) => tensors.set(q, { ...tensors.get(q)!, shape: [24 * 32] }))
      yield* failsWith(flat, "ShapeMismatch")
      for (const name of [
        "model.layers.2.mlp.up_proj.weight",
        "model.layers.0.self_attn.o_proj.bias",
        "score.weight"
      ]) {
        const surplus = yield* failsWith(
          check((tensors) => tensors.set(name, zeros(name, 3))),
          "Unsupported"
        )
        assert.include(surplus.message, name)
      }
      const unbiased = check((tensors) => {
        for (const name of [...tensors.keys()]) if (/^model\.layers\.0.*bias$/.test(name)) tensors.delete(name)
      })
      assert.include((yield* failsWith(unbiased, "Missing")).message, "model.layers.0.self_attn.q_proj.bias")
      const otherHead = check((tensors) => {
        const embed = tensors.get("model.embed_tokens.weight")!
        const data = embed.data.slice()
        data[data.length - 1]! += 1
        tensors.set("lm_head.weight", { ...embed, name: "lm_head.weight", data })
      })
      assert.include((yield* failsWith(otherHead, "Malformed")).message, "tie_word_embeddings")
    }).pipe(Effect.provide(platform))
  )
})
