import { spawn } from "node:child_process"
import * as fs from "node:fs"
import * as os from "node:os"
import * as nodePath from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Schema, Stream } from "effect"
import { hashText, RunStore } from "../src/index.ts"

const temporary = Effect.acquireRelease(
  Effect.sync(() => fs.mkdtempSync(nodePath.join(os.tmpdir(), "srcode-store-"))),
  (dir) => Effect.sync(() => fs.rmSync(dir, { recursive: true, force: true }))
)
const inRun = <A, E>(dir: string, effect: Effect.Effect<A, E, RunStore>) =>
  effect.pipe(Effect.provide(RunStore.layer(dir)), Effect.scoped)
const source = JSON.stringify(nodePath.resolve(import.meta.dirname, "../src/index.ts"))
const cwd = nodePath.resolve(import.meta.dirname, "..")
const Row = Schema.Struct({ n: Schema.Int })

/** Starts a child that opens the run directory, does `body` and then waits; resolves when it printed `ready`. */
const holder = (dir: string, body = "") =>
  Effect.promise(
    () =>
      new Promise<ReturnType<typeof spawn>>((resolve) => {
        const script = `import { Effect, Schema } from "effect"; import { RunStore } from ${source};
          await Effect.runPromise(Effect.provide(Effect.gen(function*() {
            const store = yield* RunStore; ${body}
            yield* Effect.sync(() => process.stdout.write("ready"));
            yield* Effect.sleep("60 seconds")
          }), RunStore.layer(${JSON.stringify(dir)})))`
        const child = spawn(process.execPath, ["--input-type=module", "-e", script], { cwd })
        child.stdout.once("data", () => resolve(child))
      })
  )
const kill = (child: ReturnType<typeof spawn>) =>
  Effect.promise(
    () =>
      new Promise<void>((resolve) => {
        child.once("exit", () => resolve())
        child.kill("SIGKILL")
      })
  )

describe("RunStore", () => {
  it.live("keeps files, rows and the manifest", () =>
    Effect.gen(function* () {
      const store = yield* RunStore
      assert.isNull(yield* store.readManifest)
      const manifest = {
        name: "demo",
        config: { lr: 0.1, nested: [1, "a", null] },
        seed: 7,
        versions: { node: "24" },
        device: { name: "none", backend: "null", software: true },
        gitCommit: null,
        inputs: { data: hashText("x") },
        startedAt: "2026-01-01T00:00:00.000Z"
      }
      yield* store.writeManifest(manifest)
      assert.deepStrictEqual(yield* store.readManifest, manifest)
      yield* store.write("a/b.txt", "hello")
      assert.strictEqual(yield* store.readText("a/b.txt"), "hello")
      assert.strictEqual(yield* store.hash("a/b.txt"), hashText("hello"))
      yield* store.remove("a")
      assert.isFalse(yield* store.exists("a/b.txt"))
      yield* Effect.scoped(
        Effect.gen(function* () {
          const rows = yield* store.appender("rows.jsonl", Row)
          yield* rows.append({ n: 1 })
          yield* rows.append({ n: 2 })
          assert.strictEqual((yield* Effect.flip(rows.append({ n: 0.5 }))).reason, "Malformed")
        })
      )
      fs.appendFileSync(store.path("rows.jsonl"), `{"n":`)
      yield* Effect.scoped(Effect.flatMap(store.appender("rows.jsonl", Row), (rows) => rows.append({ n: 3 })))
      assert.deepStrictEqual(yield* Stream.runCollect(store.readLines("rows.jsonl", Row)), [
        { n: 1 },
        { n: 2 },
        { n: 3 }
      ])
      assert.deepStrictEqual(yield* Stream.runCollect(store.readMetrics), [])
    }).pipe(Effect.provide(RunStore.layerTest))
  )

  it.live("removes the test directory and releases the lock", () =>
    Effect.gen(function* () {
      const dir = yield* Effect.provide(
        Effect.map(RunStore, (store) => store.dir),
        RunStore.layerTest
      )
      assert.isFalse(fs.existsSync(dir))
      const own = nodePath.join(yield* temporary, "run")
      yield* inRun(
        own,
        Effect.sync(() => assert.isTrue(fs.existsSync(nodePath.join(own, "run.lock"))))
      )
      assert.deepStrictEqual(fs.readdirSync(own), [])
    })
  )

  it.live("fails with one line where nothing can be written", () =>
    Effect.gen(function* () {
      const dir = yield* temporary
      fs.writeFileSync(nodePath.join(dir, "file"), "")
      for (const bad of [nodePath.join(dir, "file"), nodePath.join(dir, "file/run"), "/proc/srcode"]) {
        const error = yield* Effect.flip(inRun(bad, Effect.void))
        assert.strictEqual(error.reason, "Unwritable")
        assert.include(error.message, bad)
        assert.notInclude(error.message, "\n")
      }
    })
  )
})

describe("stages", () => {
  const stage = (dir: string, inputsHash: string, log: Array<string>, content = inputsHash) =>
    inRun(
      dir,
      Effect.gen(function* () {
        const store = yield* RunStore
        return yield* store.stage({
          name: "sft",
          inputsHash,
          partial: ["sft/state"],
          run: ({ resumed }) =>
            Effect.gen(function* () {
              log.push(`${inputsHash}:${resumed}:${yield* store.exists("sft/state/s")}`)
              yield* store.write("sft/adapter/w", content)
              yield* store.write("sft/adapter/c.json", "{}")
              return ["sft/adapter"]
            })
        })
      })
    )
  it.live("run once per inputs, and again when inputs or outputs change", () =>
    Effect.gen(function* () {
      const dir = yield* temporary
      const log: Array<string> = []
      const first = yield* stage(dir, "one", log)
      assert.deepStrictEqual(first, {
        skipped: false,
        outputs: { "sft/adapter/c.json": hashText("{}"), "sft/adapter/w": hashText("one") }
      })
      assert.deepStrictEqual(yield* stage(dir, "one", log), { ...first, skipped: true })
      assert.isFalse((yield* stage(dir, "two", log)).skipped)
      fs.appendFileSync(nodePath.join(dir, "sft/adapter/w"), "!")
      assert.isFalse((yield* stage(dir, "two", log)).skipped)
      fs.rmSync(nodePath.join(dir, "sft/adapter/c.json"))
      assert.isFalse((yield* stage(dir, "two", log)).skipped)
      fs.writeFileSync(nodePath.join(dir, "stages/sft.json"), "{ damaged")
      assert.isFalse((yield* stage(dir, "two", log)).skipped)
      assert.isTrue((yield* stage(dir, "two", log)).skipped)
      assert.strictEqual(log.length, 5)
    })
  )
  it.live("continue partial state of the same inputs only", () =>
    Effect.gen(function* () {
      const dir = yield* temporary
      const attempt = (inputsHash: string) =>
        inRun(
          dir,
          Effect.gen(function* () {
            const store = yield* RunStore
            return yield* store.stage({
              name: "sft",
              inputsHash,
              partial: ["sft/state"],
              run: ({ resumed }) =>
                Effect.gen(function* () {
                  const found = yield* store.exists("sft/state/s")
                  yield* store.write("sft/state/s", "partial")
                  return yield* Effect.fail({ resumed, found })
                })
            })
          })
        ).pipe(Effect.flip)
      assert.deepStrictEqual(yield* attempt("one"), { resumed: false, found: false })
      assert.deepStrictEqual(yield* attempt("one"), { resumed: true, found: true })
      assert.deepStrictEqual(yield* attempt("two"), { resumed: false, found: false })
      const log: Array<string> = []
      yield* stage(dir, "two", log)
      assert.deepStrictEqual(log, ["two:true:true"])
    })
  )
  it.live("say which promised output is missing, and stay unfinished", () =>
    Effect.gen(function* () {
      const dir = yield* temporary
      const broken = inRun(
        dir,
        Effect.flatMap(RunStore, (store) =>
          store.stage({ name: "eval", inputsHash: "h", run: () => Effect.succeed(["eval/tiny.json"]) })
        )
      )
      for (let i = 0; i < 2; i++) {
        const error = yield* Effect.flip(broken)
        assert.strictEqual(error.reason, "Incomplete")
        assert.match(error.message, /stage eval did not write eval\/tiny\.json/)
      }
    })
  )
})

describe("the lock", () => {
  it.live("keeps a second process and a second layer out, and is taken over from a killed one", () =>
    Effect.gen(function* () {
      const dir = nodePath.join(yield* temporary, "run")
      const child = yield* holder(dir)
      const error = yield* Effect.flip(inRun(dir, Effect.void))
      assert.strictEqual(error.reason, "Locked")
      assert.match(error.message, new RegExp(`process ${child.pid} .*remove run\\.lock`))
      yield* kill(child)
      assert.isTrue(fs.existsSync(nodePath.join(dir, "run.lock")))
      yield* inRun(
        dir,
        Effect.gen(function* () {
          assert.strictEqual((yield* Effect.flip(Effect.scoped(inRun(dir, Effect.void)))).reason, "Locked")
        })
      )
      assert.isFalse(fs.existsSync(nodePath.join(dir, "run.lock")))
    })
  )
  it.live("of a reused process number is stale, of another machine is not, damaged is", () =>
    Effect.gen(function* () {
      const dir = yield* temporary
      const write = (value: unknown) => fs.writeFileSync(nodePath.join(dir, "run.lock"), JSON.stringify(value))
      const started = fs.readFileSync("/proc/1/stat", "utf8").split(" ")[21]
      write({ pid: 1, host: os.hostname(), started: `${started}1` })
      yield* inRun(dir, Effect.void)
      write({ pid: 1, host: os.hostname(), started })
      assert.strictEqual((yield* Effect.flip(inRun(dir, Effect.void))).reason, "Locked")
      write({ pid: process.pid, host: os.hostname(), started: null })
      yield* inRun(dir, Effect.void)
      write({ pid: 1, host: "elsewhere", started: null })
      assert.strictEqual((yield* Effect.flip(inRun(dir, Effect.void))).reason, "Locked")
      write("torn")
      yield* inRun(dir, Effect.void)
    })
  )
  it.live("is won by exactly one of several that find the same stale lock", () =>
    Effect.gen(function* () {
      const dir = yield* temporary
      fs.writeFileSync(
        nodePath.join(dir, "run.lock"),
        JSON.stringify({ pid: 4194303, host: os.hostname(), started: "1" })
      )
      const script = `import { Effect } from "effect"; import { RunStore } from ${source};
        const say = (text) => Effect.sync(() => process.stdout.write(text));
        await Effect.runPromise(Effect.provide(Effect.andThen(say("Success"), Effect.sleep("60 seconds")),
          RunStore.layer(${JSON.stringify(dir)})).pipe(Effect.catch((error) => say(error.reason))))`
      const children = [0, 1, 2, 3].map(() => spawn(process.execPath, ["--input-type=module", "-e", script], { cwd }))
      const answer = (child: (typeof children)[number]) =>
        new Promise<string>((resolve) => child.stdout.once("data", (chunk) => resolve(String(chunk))))
      const results = yield* Effect.promise(() => Promise.all(children.map(answer)))
      for (const child of children) child.kill("SIGKILL")
      assert.deepStrictEqual(results.sort(), ["Locked", "Locked", "Locked", "Success"])
    })
  )
  it.live("sweeps what a killed writer left half-written", () =>
    Effect.gen(function* () {
      const dir = nodePath.join(yield* temporary, "run")
      const child = yield* holder(dir, `yield* store.write("keep/a.txt", "a");`)
      fs.writeFileSync(nodePath.join(dir, "keep/.tmp-a.txt-1-0"), "half")
      yield* kill(child)
      yield* inRun(dir, Effect.void)
      assert.deepStrictEqual(fs.readdirSync(nodePath.join(dir, "keep")), ["a.txt"])
    })
  )
  it.live("a kill at any time leaves a replaced file whole", () =>
    Effect.gen(function* () {
      const dir = nodePath.join(yield* temporary, "run")
      const body = `yield* Effect.sync(() => process.stdout.write("go"));
        for (let i = 0; ; i = (i + 1) % 10) yield* store.write("f", String(i).repeat(200000));`
      for (let i = 0; i < 3; i++) {
        const child = yield* holder(dir, body)
        yield* Effect.sleep(`${60 + 45 * i} millis`)
        yield* kill(child)
        const content = fs.readFileSync(nodePath.join(dir, "f"), "utf8")
        assert.strictEqual(content, (content[0] ?? "").repeat(200000))
      }
    })
  )
})
