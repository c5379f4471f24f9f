/** Model arguments: folders, ids in a cache laid out as the hub's tools do it (links into blobs), and what is refused. */
import { assert, describe, it } from "@effect/vitest"
import { ConfigProvider, Effect, FileSystem, Path } from "effect"
import { hubCacheDirectory, parseHubId } from "../src/HubCache.ts"
import { locateAdapter, locateModel } from "../src/ModelLocation.ts"
import { failsWith, platform, temporaryFolder } from "./support.ts"

const one = "0123456789abcdef0123456789abcdef01234567"
const two = "0123456fffffffffffffffffffffffffffffffff"
const three = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

const settings = (values: Readonly<Record<string, string>>) => ConfigProvider.layer(ConfigProvider.fromUnknown(values))

/** A cache with `org/model`: refs to files and to commits, contents in blobs, snapshots of relative links. */
const fakeCache = Effect.gen(function* () {
  const fs = yield* FileSystem.FileSystem
  const cache = yield* temporaryFolder
  const root = `${cache}/models--org--model`
  let blobs = 0
  const put = Effect.fnUntraced(function* (commit: string, name: string, text = "{}", under = root) {
    yield* fs.makeDirectory(`${under}/blobs`, { recursive: true })
    yield* fs.makeDirectory(`${under}/snapshots/${commit}`, { recursive: true })
    const blob = `b${blobs++}`
    yield* fs.writeFileString(`${under}/blobs/${blob}`, text)
    yield* fs.symlink(`../../blobs/${blob}`, `${under}/snapshots/${commit}/${name}`)
    return `${under}/blobs/${blob}`
  })
  const ref = Effect.fnUntraced(function* (name: string, commit: string, under = root) {
    const file = `${under}/refs/${name}`
    yield* fs.makeDirectory(file.slice(0, file.lastIndexOf("/")), { recursive: true })
    yield* fs.writeFileString(file, commit)
  })
  const locate = (argument: string) =>
    locateModel(argument).pipe(Effect.provide(settings({ HF_HUB_CACHE: cache, HOME: "/nowhere" })))
  const adapter = (argument: string) =>
    locateAdapter(argument).pipe(Effect.provide(settings({ HF_HUB_CACHE: cache, HOME: "/nowhere" })))
  return { fs, cache, root, put, ref, locate, adapter }
})

describe("locateModel", () => {
  it.effect("a folder is taken as it is, before any id; a file is not", () =>
    Effect.gen(function* () {
      const { fs, cache, locate } = yield* fakeCache
      assert.strictEqual(yield* locate(cache), cache)
      assert.strictEqual(yield* locate(`${cache}/`), `${cache}/`)
      assert.strictEqual(yield* locate("."), ".")
      yield* fs.symlink(cache, `${cache}/link`)
      assert.strictEqual(yield* locate(`${cache}/link`), `${cache}/link`)
      yield* fs.writeFileString(`${cache}/model.safetensors`, "x")
      assert.include(
        (yield* failsWith(locate(`${cache}/model.safetensors`), "Invalid")).message,
        "folder that holds it"
      )
      for (const path of ["./none/here", `${cache}/none`, "none", "a/b/c", `${cache}/model.safetensors/x`]) {
        assert.include((yield* failsWith(locate(path), "Missing")).message, path)
      }
    }).pipe(Effect.provide(platform))
  )

  it.effect("an id is found by branch, tag, pull request, commit and its beginning", () =>
    Effect.gen(function* () {
      const { root, put, ref, locate } = yield* fakeCache
      for (const commit of [one, two, three]) {
        yield* put(commit, "config.json")
        yield* put(commit, "model.safetensors", "x")
      }
      yield* ref("main", one)
      yield* ref("v1.0", `${two}\n`)
      yield* ref("refs/pr/3", three)
      const at = (commit: string) => `${root}/snapshots/${commit}`
      for (const [argument, commit] of [
        ["org/model", one],
        ["org/model@main", one],
        ["org/model@v1.0", two],
        ["org/model@refs/pr/3", three],
        [`org/model@${two}`, two],
        ["org/model@0123456f", two],
        ["org/model@aaaaaaa", three]
      ] as const) {
        assert.strictEqual(yield* locate(argument), at(commit), argument)
      }
      const both = yield* failsWith(locate("org/model@0123456"), "Invalid")
      assert.include(both.message, one)
      assert.include(both.message, two)
      for (const revision of ["v2", "012345", "bbbbbbb", "refs", "refs/pr", "Main0"]) {
        const reason = yield* failsWith(locate(`org/model@${revision}`), "Missing")
        assert.include(reason.message, `srcode pull org/model@${revision}`)
        assert.include(reason.message, one.slice(0, 12))
      }
      yield* ref("gone", "cccccccccccccccccccccccccccccccccccccccc")
      assert.include((yield* failsWith(locate("org/model@gone"), "Missing")).message, "not in the cache")
      yield* ref("odd", "../../../../etc")
      yield* failsWith(locate("org/model@odd"), "Malformed")
    }).pipe(Effect.provide(platform))
  )

  it.effect("what is not there says where it was looked for and how to get it", () =>
    Effect.gen(function* () {
      const { fs, cache, locate } = yield* fakeCache
      const reason = yield* failsWith(locate("org/other"), "Missing")
      for (const text of ['"org/other"', cache, "srcode pull org/other"]) assert.include(reason.message, text)
      yield* fs.makeDirectory(`${cache}/models--org--empty`)
      assert.include((yield* failsWith(locate("org/empty"), "Missing")).message, "srcode pull org/empty")
      yield* fs.remove(cache, { recursive: true })
      assert.include((yield* failsWith(locate("org/model"), "Missing")).message, cache)
    }).pipe(Effect.provide(platform))
  )

  it.effect("a snapshot with files missing or with links into nothing is not a model", () =>
    Effect.gen(function* () {
      const { fs, root, put, ref, locate, adapter } = yield* fakeCache
      yield* ref("main", one)
      const lacks = Effect.fnUntraced(function* (name: string) {
        const reason = yield* failsWith(locate("org/model"), "Missing")
        assert.include(reason.message, `has no ${name}; run srcode pull org/model`)
      })
      yield* put(one, "tokenizer.json")
      yield* lacks("config.json")
      yield* put(one, "config.json")
      yield* lacks("model.safetensors")
      const shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"] as const
      const index = { weight_map: { a: shards[0], b: shards[1], c: shards[0] } }
      yield* put(one, "model.safetensors.index.json", JSON.stringify(index))
      yield* put(one, shards[0])
      yield* lacks(shards[1])
      const blob = yield* put(one, shards[1])
      assert.strictEqual(yield* locate("org/model"), `${root}/snapshots/${one}`)
      yield* fs.rename(blob, `${blob}.incomplete`)
      yield* lacks(shards[1])
      yield* put(two, "config.json")
      yield* put(two, "pytorch_model.bin")
      assert.strictEqual(yield* locate(`org/model@${two}`), `${root}/snapshots/${two}`, "the loader says why not")
      yield* put(three, "adapter_config.json")
      yield* failsWith(adapter(`org/model@${three}`), "Missing")
      yield* put(three, "adapter_model.safetensors")
      assert.strictEqual(yield* adapter(`org/model@${three}`), `${root}/snapshots/${three}`)
      yield* failsWith(locate(`org/model@${three}`), "Missing")
    }).pipe(Effect.provide(platform))
  )

  it.effect("texts that could leave the cache are not ids", () =>
    Effect.gen(function* () {
      const { fs, cache, root, put, ref, locate } = yield* fakeCache
      yield* put(one, "config.json")
      yield* put(one, "model.safetensors")
      yield* ref("main", one)
      yield* fs.writeFileString(`${cache}/secret`, one)
      const odd = [
        "org/../model",
        "../org/model",
        "org/model/..",
        "org/.",
        "./..x",
        "org\\model",
        "org//model",
        "/org/model",
        "org/model/",
        "org/mod el",
        "org/mo--del",
        "org/model.git",
        "-org/model",
        "org/model@",
        "org/model@../../secret",
        "org/model@/etc/passwd",
        "org/model@main/../../secret",
        "org/model@-x",
        "org/model@a b",
        "org/model@main.lock",
        "org/model@main@main",
        "org/möd",
        "~/model",
        "https://huggingface.co/org/model",
        `org/${"m".repeat(97)}`,
        `org/model@${"r".repeat(201)}`,
        "org/model\n"
      ]
      for (const text of odd) {
        assert.isUndefined(parseHubId(text), text)
        yield* failsWith(locate(text), "Missing")
      }
      for (const text of ["", "org/model\0"]) yield* failsWith(locate(text), "Invalid")
      assert.strictEqual(yield* locate("org/model"), `${root}/snapshots/${one}`)
      assert.deepStrictEqual(parseHubId("Qwen/Qwen2.5-Coder-0.5B-Instruct@refs/pr/12"), {
        repository: "Qwen/Qwen2.5-Coder-0.5B-Instruct",
        revision: "refs/pr/12"
      })
    }).pipe(Effect.provide(platform))
  )
})

describe("the place of the cache", () => {
  it.effect("follows the settings of the hub's own tools, in their order", () =>
    Effect.gen(function* () {
      const path = yield* Path.Path
      const all = {
        HF_HUB_CACHE: "/a",
        HUGGINGFACE_HUB_CACHE: "/b",
        HF_HOME: "~/c",
        XDG_CACHE_HOME: "/d",
        HOME: "/home/u"
      }
      const expected = ["/a", "/b", "/home/u/c/hub", "/d/huggingface/hub", "/home/u/.cache/huggingface/hub"]
      const names = Object.keys(all)
      for (const [i, directory] of expected.entries()) {
        const set = Object.fromEntries(Object.entries(all).filter(([name]) => names.indexOf(name) >= i))
        for (const empty of [{}, Object.fromEntries(names.slice(0, i).map((name) => [name, " "]))]) {
          const found = yield* hubCacheDirectory.pipe(Effect.provide(settings({ ...empty, ...set })))
          assert.strictEqual(found, path.normalize(directory))
        }
      }
      yield* failsWith(hubCacheDirectory.pipe(Effect.provide(settings({}))), "Invalid")
    }).pipe(Effect.provide(platform))
  )
})
