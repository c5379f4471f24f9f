/** What counts as another model or adapter: any changed byte of what is loaded, in any file; nothing else. */
import { NodeServices } from "@effect/platform-node"
import { assert, it } from "@effect/vitest"
import { Effect, FileSystem } from "effect"
import { hashAdapter, hashModel } from "../src/index.ts"
import { temporaryFolder } from "./tinyWorld.ts"

const files = [
  "config.json",
  "tokenizer.json",
  "model.safetensors.index.json",
  "model-00001-of-00002.safetensors",
  "model-00002-of-00002.safetensors"
]

it.effect("a change in any file of a model is another model, whichever shard it is in; other files do not count", () =>
  Effect.gen(function* () {
    const fs = yield* FileSystem.FileSystem
    const folder = yield* temporaryFolder
    for (const file of files) yield* fs.writeFileString(`${folder}/${file}`, `the bytes of ${file}`)
    const hashes = [yield* hashModel(folder)]
    for (const file of files) {
      yield* fs.writeFileString(`${folder}/${file}`, `the Bytes of ${file}`)
      hashes.push(yield* hashModel(folder))
    }
    assert.strictEqual(new Set(hashes).size, files.length + 1)
    yield* fs.remove(`${folder}/model-00002-of-00002.safetensors`)
    hashes.push(yield* hashModel(folder))
    assert.strictEqual(new Set(hashes).size, files.length + 2)
    yield* fs.writeFileString(`${folder}/README.md`, "notes")
    yield* fs.writeFileString(`${folder}/model-00002-of-00002.safetensors.tmp`, "half a download")
    assert.strictEqual(yield* hashModel(folder), hashes.at(-1))
    const moved = `${folder}-moved`
    yield* fs.copy(folder, moved)
    yield* Effect.addFinalizer(() => Effect.ignore(fs.remove(moved, { recursive: true })))
    assert.strictEqual(yield* hashModel(moved), hashes.at(-1))
  }).pipe(Effect.provide(NodeServices.layer))
)

it.effect("an adapter is its settings and its weights", () =>
  Effect.gen(function* () {
    const fs = yield* FileSystem.FileSystem
    const folder = yield* temporaryFolder
    const hashes = new Set<string>()
    for (const [file, text] of [
      ["adapter_config.json", "{}"],
      ["adapter_model.safetensors", "a"],
      ["adapter_model.safetensors", "b"],
      ["adapter_config.json", "{ }"]
    ] as const) {
      yield* fs.writeFileString(`${folder}/${file}`, text)
      hashes.add(yield* hashAdapter(folder))
    }
    assert.strictEqual(hashes.size, 4)
  }).pipe(Effect.provide(NodeServices.layer))
)
