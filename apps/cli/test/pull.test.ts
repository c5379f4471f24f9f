/** `srcode pull` against a hub on a local port: the cache it leaves, what it fetches again, and every way to go wrong. */
import * as fs from "node:fs"
import { setTimeout as sleep } from "node:timers/promises"
import { NodeServices } from "@effect/platform-node"
import { afterAll, assert, beforeAll, beforeEach, describe, it } from "@effect/vitest"
import { locateModel, parseHubId } from "@srcode/model"
import { ConfigProvider, Effect, Exit, Schedule } from "effect"
import { Retries } from "../src/hub/client.ts"
import { pull } from "../src/hub/pull.ts"
import { isUserError } from "./internal/checkpoints.ts"
import { commitA, commitB, type FakeHub, gitSha, noise, type Repository, sha256, startHub } from "./internal/hub.ts"
import { inFolder, run } from "./internal/process.ts"

const settings = '{"model_type":"qwen2"}'
const shard = (i: number) => `model-0000${i}-of-00002.safetensors`
/** Two pieces and a bit; one that is less than a piece. */
const large = noise(33 * 1024 * 1024 + 5)
const small = noise(100_001)
const model: Repository = {
  refs: { main: commitA, "v1.0": commitB, "refs/pr/2": commitB },
  commits: {
    [commitA]: {
      "config.json": settings,
      "tokenizer.json": '{"a":"é"}',
      "tokenizer_config.json": "{}",
      "generation_config.json": "{}",
      "merges.txt": "a b\n",
      "empty.txt": "",
      "chat_template.jinja": "{{ messages }}",
      LICENSE: "Apache",
      "README.md": "# Model",
      "model.safetensors.index.json": JSON.stringify({ weight_map: { a: shard(1), b: shard(2) } }),
      [shard(1)]: large,
      [shard(2)]: small,
      "consolidated.safetensors": noise(10),
      "pytorch_model.bin": noise(10),
      "pytorch_model.bin.index.json": "{}",
      "model.gguf": noise(10),
      ".gitattributes": "x",
      "onnx/model.onnx": noise(10),
      "onnx/config.json": "{}"
    },
    [commitB]: { "config.json": settings, "model.safetensors": small, "README.md": "# Older" }
  }
}
const expected = Object.keys(model.commits[commitA] ?? {}).filter(
  (name) => !/consolidated|pytorch|gguf|gitattributes|onnx/.test(name)
)

let hub: FakeHub
beforeAll(async () => {
  hub = await startHub({})
})
afterAll(() => hub.close())
beforeEach(() => {
  hub.repositories.clear()
  hub.repositories.set("org/model", model)
  hub.repositories.set("org/secret", { ...model, token: "hf_right" })
  hub.requests.length = 0
  hub.sent = 0
  hub.intercept = () => false
})

interface Options {
  readonly include?: ReadonlyArray<string>
  readonly env?: Readonly<Record<string, string>>
  readonly signal?: AbortSignal
  readonly onBytes?: (done: number, total: number) => void
}

const attempt = (cache: string, id: string, options: Options = {}) =>
  Effect.runPromiseExit(
    pull(parseHubId(id)!, options.include ?? [], ({ doneBytes, totalBytes }) =>
      Effect.sync(() => options.onBytes?.(doneBytes, totalBytes))
    ).pipe(
      Effect.provide(NodeServices.layer),
      Effect.provideService(Retries, Schedule.spaced("20 millis").pipe(Schedule.upTo({ times: 4 }))),
      Effect.provide(
        ConfigProvider.layer(ConfigProvider.fromUnknown({ HF_HUB_CACHE: cache, HF_ENDPOINT: hub.url, ...options.env }))
      )
    ),
    options.signal === undefined ? {} : { signal: options.signal }
  )
const succeeds = async (cache: string, id: string, options: Options = {}) => {
  const exit = await attempt(cache, id, options)
  if (Exit.isFailure(exit)) assert.fail(String(exit.cause))
  return exit.value
}
/** Fails with one line; returns it. */
const refused = async (cache: string, id: string, options: Options = {}): Promise<string> => {
  const exit = await attempt(cache, id, options)
  if (Exit.isSuccess(exit)) assert.fail("it succeeded")
  const [reason] = exit.cause.reasons
  if (reason?._tag !== "Fail") assert.fail(String(exit.cause))
  assert.strictEqual(reason.error._tag === "UserError" || reason.error._tag === "ModelError", true)
  assert.notMatch(reason.error.message, /\n/)
  return reason.error.message
}
const located = (cache: string, id: string) =>
  Effect.runPromiseExit(
    locateModel(id).pipe(
      Effect.provide(NodeServices.layer),
      Effect.provide(ConfigProvider.layer(ConfigProvider.fromUnknown({ HF_HUB_CACHE: cache })))
    )
  )
const isLocated = async (cache: string, id: string): Promise<boolean> => Exit.isSuccess(await located(cache, id))
const rootOf = (cache: string) => `${cache}/models--org--model`
const checkFiles = (directory: string, names: ReadonlyArray<string>, commit = commitA) => {
  assert.deepStrictEqual(fs.readdirSync(directory).sort(), [...names].sort())
  for (const name of names) {
    const content = Buffer.from(model.commits[commit]![name]!)
    assert.isTrue(fs.readFileSync(`${directory}/${name}`).equals(content), name)
    const etag = name.endsWith(".safetensors") ? sha256(content) : gitSha(content)
    assert.strictEqual(fs.readlinkSync(`${directory}/${name}`), `../../blobs/${etag}`)
  }
}

describe("pull", () => {
  it("leaves the standard layout with what a model needs, and finds nothing to do the second time", () =>
    inFolder(async (cache) => {
      const seen: Array<readonly [number, number]> = []
      const pulled = await succeeds(cache, "org/model", { onBytes: (done, total) => seen.push([done, total]) })
      const root = rootOf(cache)
      assert.strictEqual(pulled.directory, `${root}/snapshots/${commitA}`)
      checkFiles(pulled.directory, expected)
      assert.strictEqual(fs.readFileSync(`${root}/refs/main`, "utf8"), commitA)
      assert.deepStrictEqual(fs.readdirSync(root).sort(), ["blobs", "refs", "snapshots"])
      assert.strictEqual(pulled.files, expected.length)
      assert.strictEqual(pulled.fetchedBytes, pulled.bytes - 2, "two files of the same two bytes are one blob")
      assert.deepStrictEqual(
        seen.map(([done]) => done),
        seen.map(([done]) => done).toSorted((a, b) => a - b)
      )
      assert.deepStrictEqual(seen.at(-1)?.[0], seen.at(-1)?.[1])
      const found = await located(cache, "org/model")
      assert.deepStrictEqual(found, Exit.succeed(pulled.directory))
      hub.requests.length = 0
      const again = await succeeds(cache, "org/model")
      assert.strictEqual(again.fetchedBytes, 0)
      assert.isFalse(
        hub.requests.some((request) => /resolve|cdn/.test(request)),
        hub.requests.join("\n")
      )
      const other = await succeeds(cache, "org/model@v1.0")
      checkFiles(other.directory, ["config.json", "model.safetensors", "README.md"], commitB)
      assert.strictEqual(other.fetchedBytes, "# Older".length, "contents are shared between commits")
      await succeeds(cache, "org/model@refs/pr/2")
      for (const id of ["org/model@v1.0", "org/model@refs/pr/2", `org/model@${commitB}`]) {
        assert.deepStrictEqual(await located(cache, id), Exit.succeed(other.directory))
      }
    }))

  it("--include fetches what matches, in subfolders too; such a snapshot is not taken for a model", () =>
    inFolder(async (cache) => {
      const pulled = await succeeds(cache, `org/model@${commitA}`, {
        include: ["*tokenizer*.json", "onnx/config.????"]
      })
      assert.deepStrictEqual(fs.readdirSync(pulled.directory).sort(), [
        "onnx",
        "tokenizer.json",
        "tokenizer_config.json"
      ])
      assert.strictEqual(fs.readFileSync(`${pulled.directory}/onnx/config.json`, "utf8"), "{}")
      assert.isFalse(fs.existsSync(`${rootOf(cache)}/refs`), "a commit is not a ref")
      assert.isFalse(await isLocated(cache, `org/model@${commitA}`))
      assert.include(await refused(cache, "org/model", { include: ["*.xyz", "[a"] }), '"*.xyz"')
    }))

  it(
    "a connection that breaks off is picked up where it was; a dead one leaves a beginning to continue",
    () =>
      inFolder(async (cache) => {
        let broken = 0
        hub.intercept = (request, response) => {
          if (!request.url?.includes("/cdn/") || broken >= 3) return false
          broken++
          response.writeHead(206, { "content-length": 1000 })
          response.write(noise(10))
          setTimeout(() => response.destroy(), 10)
          return true
        }
        await succeeds(cache, "org/model")
        assert.strictEqual(broken, 3)
        fs.rmSync(`${cache}/models--org--model`, { recursive: true })

        // From the second piece on the line is dead.
        hub.intercept = (request, response) => {
          const from = Number(/bytes=(\d+)-/.exec(request.headers.range ?? "")?.[1] ?? 0)
          if (!request.url?.includes("/cdn/") || from < 16 * 1024 * 1024) return false
          response.destroy()
          return true
        }
        const message = await refused(cache, "org/model")
        assert.match(message, /run the same command again to continue/)
        const blob = `${rootOf(cache)}/blobs/${sha256(large)}`
        assert.strictEqual(fs.statSync(`${blob}.incomplete`).size, 16 * 1024 * 1024)
        assert.isFalse(await isLocated(cache, "org/model"))
        hub.intercept = () => false
        hub.sent = 0
        const pulled = await succeeds(cache, "org/model")
        checkFiles(pulled.directory, expected)
        assert.isBelow(hub.sent, 18 * 1024 * 1024, "the first piece is not sent again")
        assert.isFalse(fs.existsSync(`${blob}.incomplete`))
      }),
    60_000
  )

  it(
    "a beginning that is not the file's, or longer than it, is dropped; altered content is refused",
    () =>
      inFolder(async (cache) => {
        const blob = `${rootOf(cache)}/blobs/${sha256(small)}`
        fs.mkdirSync(`${rootOf(cache)}/blobs`, { recursive: true })
        for (const bad of [noise(500), noise(small.length), noise(small.length + 1)]) {
          fs.rmSync(blob, { force: true })
          fs.writeFileSync(`${blob}.incomplete`, bad)
          const pulled = await succeeds(cache, "org/model@v1.0")
          checkFiles(pulled.directory, ["config.json", "model.safetensors", "README.md"], commitB)
        }
        fs.rmSync(blob)
        fs.writeFileSync(`${blob}.incomplete`, small)
        hub.sent = 0
        await succeeds(cache, "org/model@v1.0")
        assert.strictEqual(hub.sent, 0, "a whole beginning is only checked")
        fs.writeFileSync(blob, "cut")
        assert.isAbove((await succeeds(cache, "org/model@v1.0")).fetchedBytes, 0, "a blob of another size is replaced")
        fs.rmSync(rootOf(cache), { recursive: true })
        hub.intercept = (request, response) => {
          if (!request.url?.includes("/cdn/")) return false
          response.writeHead(200, { "content-length": small.length })
          response.end(noise(small.length))
          return true
        }
        assert.include(await refused(cache, "org/model@v1.0"), "checksum")
        assert.isFalse(fs.existsSync(blob))
        assert.isFalse(fs.existsSync(`${blob}.incomplete`))
        assert.isFalse(await isLocated(cache, "org/model@v1.0"))
      }),
    60_000
  )

  it(
    "what the hub refuses, lacks or says wrong is one line",
    () =>
      inFolder(async (cache) => {
        const closed = await startHub({})
        await closed.close()
        for (const [id, env, texts] of [
          ["org/none", {}, ["401", "spelling", "HF_TOKEN"]],
          ["org/none", { HF_TOKEN: "hf_some" }, ["404", "org/none"]],
          ["org/model@v9", {}, ["404", "v9"]],
          ["org/secret", {}, ["401", "HF_TOKEN"]],
          ["org/model", { HF_TOKEN: "abc" }, ["hf_"]],
          ["org/model", { HF_ENDPOINT: "ftp://x" }, ["HF_ENDPOINT", "ftp://x"]],
          ["org/model", { HF_ENDPOINT: "nonsense" }, ["HF_ENDPOINT"]],
          ["org/model", { HF_ENDPOINT: closed.url }, [`cannot reach ${closed.url}`, "ECONNREFUSED"]],
          ["org/model", { HF_ENDPOINT: "http://127.0.0.1:1" }, ["cannot reach http://127.0.0.1:1"]]
        ] as const) {
          const message = await refused(cache, id, { env })
          for (const text of texts) assert.include(message, text)
          assert.notInclude(message, "hf_some")
        }
        const always = (status: number, body: string, type = "application/json") => {
          hub.intercept = (_request, response) => {
            response.writeHead(status, { "content-type": type })
            response.end(body)
            return true
          }
          return refused(cache, "org/model")
        }
        assert.include(await always(403, '{"error":"Access to model org/model is restricted"}'), "accept its terms")
        assert.include(await always(429, "{}"), "429")
        assert.include(await always(503, "<h1>Busy</h1>\n<p>", "text/html"), "503")
        assert.include(await always(200, "<html>\n</html>", "text/html"), "JSON")
        assert.include(await always(200, '{"sha":"../../x"}'), "commit")
        assert.isFalse(fs.existsSync(`${cache}/models--org--model/snapshots`))
        hub.intercept = () => false
        const pulled = await succeeds(cache, "org/secret", { env: { HF_TOKEN: "hf_right" } })
        assert.lengthOf(fs.readdirSync(pulled.directory), expected.length)
      }),
    60_000
  )

  it("names that leave the folder, odd checksums and sizes are refused before anything is written", () =>
    inFolder(async (cache) => {
      const good = { type: "file", path: "config.json", size: 2, oid: gitSha("{}") }
      for (const change of [
        { path: "../evil.json" },
        { path: "/etc/evil.json" },
        { path: "a/../../evil.json" },
        { path: "C:evil.json" },
        { path: "..\\evil.json" },
        { path: "a\u0000.json" },
        { oid: "../../../evil" },
        { oid: undefined },
        { size: -1 },
        { size: 1e300 },
        { lfs: { oid: "../evil", size: 2, pointerSize: 1 } }
      ]) {
        hub.intercept = (request, response) => {
          if (!request.url?.includes("/tree/")) return false
          response.writeHead(200, { "content-type": "application/json" })
          response.end(JSON.stringify([{ ...good, ...change }]))
          return true
        }
        assert.include(await refused(cache, "org/model", { include: ["*"] }), "nothing was written")
      }
      assert.deepStrictEqual(fs.readdirSync(cache), [])
    }))

  it("a repository without safetensors, a full disk and a cache that is a file are told before fetching", () =>
    inFolder(async (cache) => {
      hub.repositories.set("org/pickles", {
        refs: { main: commitA },
        commits: { [commitA]: { "config.json": settings, "pytorch_model.bin": noise(5) } }
      })
      assert.include(await refused(cache, "org/pickles"), "pytorch_model.bin")
      hub.intercept = (request, response) => {
        if (!request.url?.includes("/tree/")) return false
        const lfs = { oid: sha256("x"), size: 2 ** 52, pointerSize: 1 }
        response.writeHead(200, { "content-type": "application/json" })
        response.end(
          JSON.stringify([{ type: "file", path: "model.safetensors", size: 2 ** 52, oid: gitSha("x"), lfs }])
        )
        return true
      }
      assert.match(await refused(cache, "org/model"), /4503599.63 GB.*free/)
      hub.intercept = () => false
      fs.writeFileSync(`${cache}/file`, "")
      assert.include(await refused(`${cache}/file`, "org/model"), "cannot write")
      assert.isFalse(hub.requests.some((request) => request.includes("resolve")))
    }))

  it(
    "two pulls of the same model at once both succeed",
    () =>
      inFolder(async (cache) => {
        const both = await Promise.all([succeeds(cache, "org/model"), succeeds(cache, "org/model")])
        for (const { directory } of both) checkFiles(directory, expected)
        assert.isFalse(fs.readdirSync(`${rootOf(cache)}/blobs`).some((name) => name.includes("incomplete")))
      }),
    60_000
  )
})

describe("srcode pull", () => {
  const env = (cache: string) => ({ HF_HUB_CACHE: cache, HF_ENDPOINT: hub.url, HF_TOKEN: undefined })

  it(
    "says where the model is; --revision and --include; errors in one line",
    () =>
      inFolder(async (cache) => {
        const one = await run(["pull", "org/model", "--revision", "v1.0"], { env: env(cache) })
        assert.strictEqual(one.code, 0, one.stderr)
        assert.match(one.stdout, new RegExp(`^3 files, 0.1 MB, 0.1 MB fetched: .*/snapshots/${commitB}\n$`))
        assert.match(one.stderr, /^pull: .*MB.*done in/m)
        const two = await run(["pull", "org/model", "--include", "*.txt", "--include", "LICENSE"], { env: env(cache) })
        assert.match(two.stdout, /^3 files/)
        isUserError(await run(["pull", "org/none"], { env: env(cache) }), "org/none", "401")
        isUserError(await run(["pull", "org/model", "--revision", "../x"], { env: env(cache) }), "ORG/NAME")
      }),
    60_000
  )

  it(
    "killed or interrupted in the middle it is not a model; the same command completes it",
    () =>
      inFolder(async (cache) => {
        for (const signal of ["SIGKILL", "SIGINT"] as const) {
          let asked = 0
          // The last part never comes, so that the process is surely at work when the signal arrives.
          hub.intercept = (request) => {
            const from = Number(/bytes=(\d+)-/.exec(request.headers.range ?? "")?.[1] ?? 0)
            if (!request.url?.includes("/cdn/") || from < 32 * 1024 * 1024) return false
            asked++
            return true
          }
          const ended = await run(["pull", "org/model"], {
            env: env(cache),
            during: async (child) => {
              const partial = `${rootOf(cache)}/blobs/${sha256(large)}.incomplete`
              while (asked === 0 || !fs.existsSync(partial) || fs.statSync(partial).size === 0) await sleep(20)
              child.kill(signal)
            }
          })
          assert.isTrue(ended.signal === "SIGKILL" || ended.code === 130, ended.stderr)
          assert.isFalse(await isLocated(cache, "org/model"))
          hub.intercept = () => false
          hub.sent = 0
          await succeeds(cache, "org/model")
          assert.isBelow(hub.sent, large.length, "what was there is not fetched again")
          checkFiles(`${rootOf(cache)}/snapshots/${commitA}`, expected)
          assert.isTrue(await isLocated(cache, "org/model"))
          fs.rmSync(rootOf(cache), { recursive: true })
        }
      }),
    100_000
  )
})
