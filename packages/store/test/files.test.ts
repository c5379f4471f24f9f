import { execFileSync, spawnSync } from "node:child_process"
import * as fs from "node:fs"
import * as os from "node:os"
import * as nodePath from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Schema, Stream } from "effect"
import {
  hashBytes,
  hashFile,
  hashJson,
  hashText,
  openMetrics,
  readJson,
  readJsonLines,
  readJsonLinesNumbered,
  readMetrics,
  readText,
  requireWritable,
  writeFileAtomic,
  writeJson,
  writeJsonLines
} from "../src/index.ts"

const temporary = Effect.acquireRelease(
  Effect.sync(() => fs.mkdtempSync(nodePath.join(os.tmpdir(), "srcode-store-"))),
  (dir) => Effect.sync(() => fs.rmSync(dir, { recursive: true, force: true }))
)
const Point = Schema.Struct({ x: Schema.Int, name: Schema.String })
const point = (x: number, name = "p") => ({ x, name })
const file = Effect.map(temporary, (dir) => nodePath.join(dir, "a.jsonl"))
const isOneLine = (text: string) => assert.notInclude(text, "\n")

describe("hashes", () => {
  it("are SHA-256 (closed form of the standard's test vector)", () => {
    const abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert.strictEqual(hashText("abc"), abc)
    assert.strictEqual(hashBytes(new Uint8Array([97, 98, 99])), abc)
  })
  it("of JSON do not depend on key order and do depend on everything else", () => {
    assert.strictEqual(hashJson({ a: 1, b: { c: [1, 2], d: null } }), hashJson({ b: { d: null, c: [1, 2] }, a: 1 }))
    const all = [{ a: 1 }, { a: "1" }, { a: [1] }, { b: 1 }, [1], 1, "1", null, {}, [], { a: { a: 1 } }].map(hashJson)
    assert.strictEqual(new Set(all).size, all.length)
  })
  it.live("of a file equal sha256sum's", () =>
    Effect.gen(function* () {
      const path = nodePath.join(yield* temporary, "big")
      yield* writeFileAtomic(path, new Uint8Array(3_000_001).fill(7))
      const expected = execFileSync("sha256sum", [path], { encoding: "utf8" }).slice(0, 64)
      assert.strictEqual(yield* hashFile(path), expected)
      const missing = yield* Effect.flip(hashFile(`${path}.not`))
      assert.strictEqual(missing.reason, "Missing")
    })
  )
})

describe("whole files", () => {
  it.live("are replaced in one step and leave nothing beside them", () =>
    Effect.gen(function* () {
      const dir = yield* temporary
      const path = nodePath.join(dir, "deep/er/a.json")
      yield* writeJson(path, Point, point(1))
      yield* writeJson(path, Point, point(2, "é中"))
      assert.deepStrictEqual(yield* readJson(path, Point), point(2, "é中"))
      assert.deepStrictEqual(fs.readdirSync(nodePath.dirname(path)), ["a.json"])
    })
  )
  it.live("fail with one line that names the file", () =>
    Effect.gen(function* () {
      const dir = yield* temporary
      const path = nodePath.join(dir, "a.json")
      for (const [content, match] of [
        ["", /empty/],
        ["{", /not JSON/],
        [`{"x":1.5,"name":"p"}`, /integer/],
        [`{"x":1}`, /Missing key.*name/],
        [new Uint8Array([0xff, 0xfe]), /UTF-8/]
      ] as const) {
        yield* writeFileAtomic(path, content)
        const error = yield* Effect.flip(readJson(path, Point))
        assert.strictEqual(error.reason, "Malformed")
        assert.match(error.message, match)
        assert.include(error.message, path)
        isOneLine(error.message)
      }
      assert.strictEqual((yield* Effect.flip(readText(`${path}.not`))).reason, "Missing")
      const inTheWay = yield* Effect.flip(writeFileAtomic(nodePath.join(path, "b"), "x"))
      assert.strictEqual(inTheWay.reason, "Unwritable")
      isOneLine(inTheWay.message)
      const full = yield* Effect.flip(writeFileAtomic("/dev/full/x", "x"))
      assert.strictEqual(full.reason, "Unwritable")
    })
  )
})

describe("JSONL", () => {
  it.live("comes back as it was written, 20,000 rows", () =>
    Effect.gen(function* () {
      const path = yield* file
      const rows = Array.from({ length: 20_000 }, (_, i) => point(i, `név\n"${i}"\u2028`))
      assert.strictEqual(yield* writeJsonLines(path, Point, Stream.fromIterable(rows)), rows.length)
      assert.deepStrictEqual(yield* Stream.runCollect(readJsonLines(path, Point)), rows)
    })
  )
  it.live("names the line of every fault and gives the rows before it", () =>
    Effect.gen(function* () {
      const path = yield* file
      const good = `${JSON.stringify(point(1))}\n`
      const cases: ReadonlyArray<readonly [string | Uint8Array, RegExp]> = [
        [`${good}\n{"x":2,\n${good}`, /a\.jsonl:3: the line is not JSON/],
        [`${good}\r\n{"x":"2","name":"p"}\n`, /a\.jsonl:3: Expected number/],
        [`${good}${good}[]\n`, /a\.jsonl:3: /],
        [Buffer.concat([Buffer.from(good + good), Buffer.from([0xc3, 0x28, 10])]), /a\.jsonl:3: .*UTF-8/],
        [`${good}${good}{"x":1,"name":"${"y".repeat(5000)}"}\n`, /a\.jsonl:3: .*longer than 4096/]
      ]
      for (const [content, match] of cases) {
        yield* writeFileAtomic(path, content)
        const seen: Array<number> = []
        const error = yield* readJsonLinesNumbered(path, Point, { maxLineBytes: 4096 }).pipe(
          Stream.runForEach((row) => Effect.sync(() => seen.push(row.line))),
          Effect.flip
        )
        assert.match(error.message, match)
        assert.strictEqual(error.line, 3)
        assert.strictEqual(error.reason, "Malformed")
        assert.strictEqual(seen[0], 1)
        isOneLine(error.message)
      }
    })
  )
  it.live("with no row is an error, unless allowed", () =>
    Effect.gen(function* () {
      const path = yield* file
      for (const content of ["", "\n\n  \n"]) {
        yield* writeFileAtomic(path, content)
        assert.strictEqual((yield* Effect.flip(Stream.runCollect(readJsonLines(path, Point)))).reason, "Empty")
        assert.deepStrictEqual(yield* Stream.runCollect(readJsonLines(path, Point, { allowEmpty: true })), [])
      }
      fs.rmSync(path)
      assert.strictEqual((yield* Effect.flip(Stream.runCollect(readJsonLines(path, Point)))).reason, "Missing")
      assert.strictEqual(
        (yield* Effect.flip(Stream.runCollect(readJsonLines(nodePath.dirname(path), Point)))).reason,
        "Unreadable"
      )
    })
  )
  it.live("keeps the old file when the rows fail, do not fit or are interrupted", () =>
    Effect.gen(function* () {
      const path = yield* file
      yield* writeJsonLines(path, Point, Stream.make(point(1)))
      const before = fs.readFileSync(path, "utf8")
      const failing = Stream.concat(Stream.make(point(2)), Stream.fail("no" as const))
      assert.strictEqual(yield* Effect.flip(writeJsonLines(path, Point, failing)), "no")
      const misfit = yield* Effect.flip(writeJsonLines(path, Point, Stream.make(point(2), point(0.5))))
      assert.strictEqual(misfit.reason, "Malformed")
      const fiber = yield* Effect.forkChild(
        writeJsonLines(path, Point, Stream.concat(Stream.make(point(3)), Stream.never))
      )
      yield* Effect.sleep("20 millis")
      yield* Fiber.interrupt(fiber)
      assert.strictEqual(fs.readFileSync(path, "utf8"), before)
      assert.deepStrictEqual(fs.readdirSync(nodePath.dirname(path)), ["a.jsonl"])
    })
  )
  it.live("stops reading early without leaking the file", () =>
    Effect.gen(function* () {
      const path = yield* file
      yield* writeJsonLines(path, Point, Stream.fromIterable(Array.from({ length: 50_000 }, (_, i) => point(i))))
      const open = () =>
        fs.readdirSync("/proc/self/fd").filter((fd) => {
          try {
            return fs.readlinkSync(`/proc/self/fd/${fd}`) === path
          } catch {
            return false
          }
        }).length
      const two = yield* readJsonLines(path, Point).pipe(Stream.take(2), Stream.runCollect)
      assert.deepStrictEqual(two, [point(0), point(1)])
      for (let i = 0; i < 100 && open() > 0; i++) yield* Effect.sleep("20 millis")
      assert.strictEqual(open(), 0)
    })
  )
})

describe("metrics", () => {
  const log = (path: string, stage: string, from: number, to: number) =>
    Effect.scoped(
      Effect.gen(function* () {
        const writer = yield* openMetrics(path, stage, from)
        for (let step = from; step < to; step++) yield* writer.append(step, { loss: 1 / (step + 1), note: "x" })
      })
    )
  it.live("are the same bytes after any kill and resume as without one", () =>
    Effect.gen(function* () {
      const dir = yield* temporary
      const whole = nodePath.join(dir, "whole.jsonl")
      yield* log(whole, "sft", 0, 8)
      yield* log(whole, "rl", 0, 8)
      const expected = fs.readFileSync(whole, "utf8")
      const start = expected.indexOf(`{"stage":"rl"`)
      // Killed at every byte of the second stage; the checkpoint lags up to 3 steps behind the log.
      for (let cut = start; cut <= expected.length; cut++) {
        const path = nodePath.join(dir, "cut.jsonl")
        fs.writeFileSync(path, expected.slice(0, cut))
        const complete = expected.slice(start, cut).split("\n").length - 1
        yield* log(path, "rl", Math.max(0, complete - (cut % 4)), 8)
        assert.strictEqual(fs.readFileSync(path, "utf8"), expected, `cut at byte ${cut}`)
      }
    })
  )
  it.live("write null for what JSON has not and keep stage and step", () =>
    Effect.gen(function* () {
      const path = nodePath.join(yield* temporary, "m.jsonl")
      yield* Effect.scoped(
        Effect.flatMap(openMetrics(path, "sft", 0), (writer) => writer.append(0, { a: Number.NaN, step: 9, b: true }))
      )
      assert.deepStrictEqual(yield* Stream.runCollect(readMetrics(path)), [{ stage: "sft", step: 0, a: null, b: true }])
    })
  )
  it.live("name the line that is not theirs", () =>
    Effect.gen(function* () {
      const path = nodePath.join(yield* temporary, "m.jsonl")
      fs.writeFileSync(path, `{"stage":"sft","step":0}\n{"step":1}\n`)
      const error = yield* Effect.flip(Effect.scoped(openMetrics(path, "sft", 0)))
      assert.match(error.message, /m\.jsonl:2: Missing key/)
    })
  )
})

describe("a place for a result", () => {
  it.live("is refused before the work as writing would refuse it after, and left as it was", () =>
    Effect.gen(function* () {
      const dir = yield* temporary
      const at = (name: string) => nodePath.join(dir, name)
      fs.writeFileSync(at("file"), "kept")
      fs.mkdirSync(at("folder"))
      for (const bad of [at("folder"), at("file/below"), at("x".repeat(300))]) {
        const early = yield* Effect.flip(requireWritable(bad))
        const late = yield* Effect.flip(writeFileAtomic(bad, "new"))
        assert.strictEqual(early.message, late.message)
        assert.strictEqual(early.reason, "Unwritable")
      }
      yield* requireWritable(at("file"))
      yield* requireWritable(at("new/place/result.json"))
      assert.strictEqual(fs.readFileSync(at("file"), "utf8"), "kept")
      assert.deepStrictEqual(fs.readdirSync(dir).sort(), ["file", "folder", "new"])
      assert.deepStrictEqual(fs.readdirSync(at("new/place")), [])
    })
  )
})

describe("a directory that cannot be written", () => {
  it.live("is a typed error also for another user", (context) =>
    Effect.gen(function* () {
      if (process.getuid?.() !== 0) return context.skip("needs root to become another user")
      const dir = yield* temporary
      fs.chmodSync(dir, 0o755)
      const source = nodePath.resolve(import.meta.dirname, "../src/index.ts")
      const script = `import { Effect } from "effect"; import { RunStore } from ${JSON.stringify(source)};
        const e = await Effect.runPromise(Effect.flip(Effect.provide(Effect.void, RunStore.layer(${JSON.stringify(`${dir}/run`)}))));
        process.stdout.write(e.reason + "|" + e.message)`
      const child = spawnSync(process.execPath, ["--input-type=module", "-e", script], {
        uid: 65534,
        gid: 65534,
        encoding: "utf8",
        cwd: nodePath.resolve(import.meta.dirname, "..")
      })
      if (child.stdout === "" && /EACCES/.test(child.stderr))
        return context.skip("the other user cannot read the sources")
      assert.match(child.stdout, /^Unwritable\|cannot write .*: permission denied; choose/, child.stderr)
    })
  )
})
