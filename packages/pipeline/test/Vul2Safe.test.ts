import { spawn } from "node:child_process"
import * as fs from "node:fs"
import * as os from "node:os"
import * as nodePath from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { Analyzer, AnalyzerError } from "@srcode/codeql"
import { readPrimeVul, type Selection } from "@srcode/dataset"
import { Reject, type Sample, Task, Triplet } from "@srcode/domain"
import { Sandbox } from "@srcode/sandbox"
import { RunStore, readJsonLines } from "@srcode/store"
import { BadAnswer, OutOfCredit, Rejected, Teacher, TeacherRules, teacherError, Unreachable } from "@srcode/teacher"
import { Effect, Layer, Stream } from "effect"
import { AuditEntry, asSelections, type Vul2SafeOptions, vul2safe, vul2safeFiles } from "../src/Vul2Safe.ts"
import * as world from "./vul2safeWorld.ts"

const temporary = Effect.acquireRelease(
  Effect.sync(() => nodePath.join(fs.mkdtempSync(nodePath.join(os.tmpdir(), "srcode-v2s-")), "run")),
  (dir) => Effect.sync(() => fs.rmSync(nodePath.dirname(dir), { recursive: true, force: true }))
)
const all = asSelections(Stream.fromIterable(world.samples))
type Options = Partial<Vul2SafeOptions>
const run = (dir: string, teacher: Layer.Layer<Teacher>, options: Options = {}, analyzer = world.analyzerLayer) =>
  vul2safe({ samples: all, auditShare: 0.5, ...options }).pipe(
    Effect.provide(Layer.mergeAll(teacher, analyzer, RunStore.layer(dir)))
  )
const bytes = (dir: string) => {
  const { journal: _, ...files } = vul2safeFiles
  return Object.fromEntries(
    Object.values(files).map((file) => [file, fs.readFileSync(nodePath.join(dir, file), "utf8")])
  )
}
const totalCalls = (calls: world.Calls) => calls.repair + calls.reflect + calls.implicitPrompts
const whole = Effect.gen(function* () {
  const dir = yield* temporary
  const calls = world.noCalls()
  const summary = yield* run(dir, world.teacherLayer(calls))
  return { dir, calls, summary, files: bytes(dir) }
})

describe("vul2safe", () => {
  it.live("takes every sample through repair, reflection, gate and prompts", () =>
    Effect.gen(function* () {
      const { dir, calls, summary } = yield* whole
      const triplets = yield* Stream.runCollect(readJsonLines(nodePath.join(dir, vul2safeFiles.triplets), Triplet))
      const rejects = yield* Stream.runCollect(readJsonLines(nodePath.join(dir, vul2safeFiles.rejects), Reject))
      assert.deepStrictEqual(
        triplets.map((triplet) => triplet.provenance.source.idx),
        ["0", "1", "6", "7"]
      )
      assert.deepStrictEqual(
        rejects.map((reject) => `${reject.source.idx} ${reject.stage}/${reject.reason}`),
        [2, 3, 4, 5, 8, 9, 10, 11].map((n) => `${n} ${world.expected[n % 6]}`)
      )
      const [first, second] = triplets
      assert.strictEqual(first?.secure, world.fixed(0))
      assert.strictEqual(first?.cwe, "CWE-120")
      assert.strictEqual(first?.provenance.twinSimilarity, 1)
      assert.strictEqual(second?.provenance.twinSimilarity, null)
      assert.deepStrictEqual([first?.provenance.rounds, second?.provenance.rounds], [1, 2])
      assert.deepStrictEqual([first?.provenance.cost, second?.provenance.cost], [0.25, 0.5])
      assert.deepStrictEqual([first?.provenance.before._tag, first?.provenance.after._tag], ["Alerts", "Clean"])
      assert.match(rejects[0]?.detail ?? "", /no repair is known/)
      assert.strictEqual(rejects[1]?.detail, "3")
      assert.include(rejects[1]?.candidate ?? "", "unused3")
      assert.match(rejects[3]?.detail ?? "", /requirement: names-security \(safely\)/)
      // Two rounds for n ≡ 1, three for 3, one for the others that are repaired.
      assert.deepStrictEqual(calls, {
        repair: 2 * (1 + 2 + 1 + 3 + 1 + 1),
        reflect: 2 * (1 + 2 + 3 + 1 + 1),
        implicitPrompts: 2 * 3
      })
      assert.deepStrictEqual(summary.rejects, {
        "repair/no-repair": 2,
        "reflect/not-accepted": 2,
        "gate/finding-remains": 2,
        "prompts/leak": 2
      })
      assert.deepStrictEqual([summary.samples, summary.triplets, summary.reused, summary.cost], [12, 4, 0, 1.5])
      const tasks = yield* Stream.runCollect(readJsonLines(nodePath.join(dir, vul2safeFiles.tasks), Task))
      assert.strictEqual(tasks.length, 4 * 5)
      assert.strictEqual(summary.tasks, tasks.length)
      assert.strictEqual(tasks[0]?.kind, "detect")
      assert.strictEqual(tasks.at(-1)?.kind, "generate")
    })
  )

  it.live("pays for nothing twice and writes the same bytes again, also with other concurrency", () =>
    Effect.gen(function* () {
      const { dir, files } = yield* whole
      const calls = world.noCalls()
      const summary = yield* run(dir, world.teacherLayer(calls), { concurrency: 5 })
      assert.strictEqual(totalCalls(calls), 0)
      assert.strictEqual(summary.reused, 12)
      assert.deepStrictEqual(bytes(dir), files)
      const other = yield* temporary
      yield* run(other, world.teacherLayer(calls), { concurrency: 7 })
      assert.deepStrictEqual(bytes(other), files)
    })
  )

  it.live("pays only for what a larger limit adds", () =>
    Effect.gen(function* () {
      const { files, calls: full } = yield* whole
      const dir = yield* temporary
      const calls = world.noCalls()
      const small = yield* run(dir, world.teacherLayer(calls), { limit: 5 })
      assert.strictEqual(small.samples, 5)
      assert.deepStrictEqual((yield* run(dir, world.teacherLayer(calls), { limit: 12 })).reused, 5)
      assert.deepStrictEqual(calls, full)
      assert.deepStrictEqual(bytes(dir), files)
    })
  )

  it.live("starts again for samples whose teacher, analyzer options or text changed", () =>
    Effect.gen(function* () {
      const { dir } = yield* whole
      const again = (options: Options, name = "world") => {
        const calls = world.noCalls()
        const teacher = Teacher.layerTest({ ...world.teacherOf(calls), name })
        return Effect.map(run(dir, teacher, { limit: 6, ...options }), (summary) => summary.reused)
      }
      assert.strictEqual(yield* again({}), 6)
      assert.strictEqual(yield* again({}, "another"), 0)
      assert.strictEqual(yield* again({ maxRounds: 2 }), 0)
      const changed = asSelections(
        Stream.fromIterable(world.samples.map((sample, n): Sample => (n === 3 ? { ...sample, cwes: [] } : sample)))
      )
      assert.strictEqual(yield* again({ samples: changed }), 5)
    })
  )

  it.live("goes on after the teacher failed at any call, to the same bytes", () =>
    Effect.gen(function* () {
      const { files, calls: full } = yield* whole
      for (let failing = 1; failing <= totalCalls(full); failing += 3) {
        const dir = yield* temporary
        const calls = world.noCalls()
        const cut = world.teacherLayer(calls, (call) =>
          call === failing ? Effect.fail(teacherError(new Unreachable({ attempts: 5, detail: "reset" }))) : Effect.void
        )
        const error = yield* Effect.flip(run(dir, cut, { concurrency: 1 }))
        assert.strictEqual(error._tag, "TeacherError")
        assert.match(error.message, /no answer in 5 attempts/)
        assert.isFalse(fs.existsSync(nodePath.join(dir, vul2safeFiles.triplets)))
        yield* run(dir, world.teacherLayer(calls))
        assert.deepStrictEqual(bytes(dir), files, `failed at call ${failing}`)
        // Only the sample in work (at most 7 calls) is asked about again.
        assert.isAtMost(totalCalls(calls), totalCalls(full) + 7)
      }
    })
  )

  it.live("goes on after kill -9, to the same bytes", () =>
    Effect.gen(function* () {
      const { files } = yield* whole
      const dir = yield* temporary
      const here = (name: string) => JSON.stringify(nodePath.resolve(import.meta.dirname, name))
      const script = `import { Effect, Layer, Stream } from "effect"; import { RunStore } from "@srcode/store";
        import { vul2safe, asSelections } from ${here("../src/Vul2Safe.ts")}; import * as world from ${here("vul2safeWorld.ts")};
        const slow = (call) => Effect.sleep("15 millis");
        await Effect.runPromise(vul2safe({ samples: asSelections(Stream.fromIterable(world.samples)), auditShare: 0.5,
          onProgress: ({ done }) => Effect.sync(() => process.stdout.write(done + "\\n")) }).pipe(
          Effect.provide(Layer.mergeAll(world.teacherLayer(world.noCalls(), slow), world.analyzerLayer, RunStore.layer(${JSON.stringify(dir)})))))`
      const killAt = (count: number) =>
        Effect.promise(
          () =>
            new Promise<void>((resolve) => {
              const child = spawn(process.execPath, ["--input-type=module", "-e", script], {
                cwd: nodePath.resolve(import.meta.dirname, "..")
              })
              let seen = ""
              child.stdout.on("data", (chunk) => {
                seen += chunk
                if (seen.split("\n").length > count) child.kill("SIGKILL")
              })
              child.once("exit", () => resolve())
            })
        )
      const journalLines = () =>
        fs.readFileSync(nodePath.join(dir, vul2safeFiles.journal), "utf8").split("\n").length - 1
      yield* killAt(3)
      const first = journalLines()
      assert.isTrue(first >= 3 && first < 12)
      fs.appendFileSync(nodePath.join(dir, vul2safeFiles.journal), `{"key":"torn`)
      yield* killAt(first + 2)
      assert.isTrue(journalLines() > first && journalLines() < 12)
      const calls = world.noCalls()
      const summary = yield* run(dir, world.teacherLayer(calls))
      assert.isAbove(summary.reused, first)
      assert.deepStrictEqual(bytes(dir), files)
    })
  )

  it.live("stops for what concerns the run and rejects what concerns a sample", () =>
    Effect.gen(function* () {
      const at = (reason: Parameters<typeof teacherError>[0]) =>
        world.teacherLayer(world.noCalls(), (call) => (call === 1 ? Effect.fail(teacherError(reason)) : Effect.void))
      const dir = yield* temporary
      const one = (reason: Parameters<typeof teacherError>[0]) => run(dir, at(reason), { limit: 1 })
      for (const reason of [new OutOfCredit({ detail: "x" }), new Rejected({ status: 401, detail: "x" })])
        assert.strictEqual((yield* Effect.flip(one(reason)))._tag, "TeacherError")
      // Asked again in the next run: a set-up fault looks the same.
      const refusal = new Rejected({ status: 400, detail: "context length" })
      assert.deepStrictEqual((yield* one(refusal)).rejects, { "repair/refused": 1 })
      assert.deepStrictEqual((yield* one(new BadAnswer({ attempts: 3, detail: "x" }))).rejects, {
        "repair/bad-answer": 1
      })
      assert.strictEqual((yield* one(refusal)).reused, 1)
      const none = Analyzer.layerTest(() => Effect.fail(AnalyzerError.unavailable("no tool", "install one")))
      const other = yield* temporary
      assert.strictEqual(
        (yield* Effect.flip(run(other, world.teacherLayer(world.noCalls()), {}, none)))._tag,
        "AnalyzerError"
      )
    })
  )

  it.live("takes silence of the analyzer for what it is", () =>
    Effect.gen(function* () {
      const silent = Analyzer.layerTest((snippet) => ({
        _tag: "NotAnalysed",
        snippetId: snippet.id,
        reason: "no compiler"
      }))
      const mute = Layer.succeed(
        Analyzer,
        Analyzer.of({ describe: Effect.succeed([]), analyze: () => Effect.succeed([]) })
      )
      for (const analyzer of [silent, mute]) {
        const dir = yield* temporary
        const teacher = world.teacherLayer(world.noCalls())
        const strict = yield* run(dir, teacher, {}, analyzer)
        assert.strictEqual(strict.triplets, 0)
        assert.strictEqual(strict.rejects["gate/not-analysed"], 8)
        assert.strictEqual(strict.tasks, 0)
        const lenient = yield* run(dir, teacher, { whenNotAnalysed: "accept" }, analyzer)
        assert.strictEqual(lenient.triplets, 6)
      }
    })
  )

  it.live("lays a stable share before a person and heeds the decisions", () =>
    Effect.gen(function* () {
      const { dir, summary } = yield* whole
      const file = nodePath.join(dir, vul2safeFiles.audit)
      const teacher = world.teacherLayer(world.noCalls())
      assert.strictEqual((yield* run(dir, teacher, { auditShare: 0 })).audit, 0)
      assert.strictEqual((yield* run(dir, teacher, { auditShare: 1 })).audit, 4)
      const entries = yield* Stream.runCollect(readJsonLines(file, AuditEntry))
      const decided = entries.map((entry, index) =>
        index === 0
          ? { ...entry, decision: "reject", note: "breaks n = 0" }
          : index === 1
            ? { ...entry, decision: "accept" }
            : entry
      )
      fs.writeFileSync(file, decided.map((entry) => `${JSON.stringify(entry)}\n`).join(""))
      const next = yield* run(dir, teacher, { auditShare: 0 })
      assert.strictEqual(next.triplets, summary.triplets - 1)
      assert.strictEqual(next.rejects["audit/person"], 1)
      assert.strictEqual(next.audit, 2)
      const kept = yield* Stream.runCollect(readJsonLines(file, AuditEntry))
      assert.deepStrictEqual(
        kept.map((entry) => [entry.decision, entry.note]),
        [
          ["reject", "breaks n = 0"],
          ["accept", ""]
        ]
      )
      fs.writeFileSync(file, `${JSON.stringify({ ...kept[0], decision: "perhaps" })}\n`)
      const error = yield* Effect.flip(run(dir, teacher))
      assert.match(error.message, /audit\.jsonl:1: Expected .*accept/)
    })
  )

  it.live("keeps dropped rows with their reasons and does not count them to the limit", () =>
    Effect.gen(function* () {
      const dir = yield* temporary
      const dropped = (n: number): Selection => ({
        _tag: "Dropped",
        line: n,
        source: world.sample(n).source,
        sampleId: `d${n}`,
        reason: "cwe-not-selected",
        detail: "CWE-1"
      })
      const rows = [
        dropped(0),
        ...world.samples.slice(0, 2).map((sample): Selection => ({ _tag: "Kept", line: 0, sample }))
      ]
      const fixedSide: Selection = { _tag: "Kept", line: 9, sample: { ...world.sample(6), vulnerable: false } }
      const samples = Stream.fromIterable([...rows, dropped(1), fixedSide, dropped(2)])
      const summary = yield* run(dir, world.teacherLayer(world.noCalls()), { samples, limit: 3 })
      assert.deepStrictEqual([summary.samples, summary.triplets], [3, 2])
      assert.deepStrictEqual(summary.rejects, { "select/cwe-not-selected": 2, "select/not-vulnerable": 1 })
    })
  )

  it.live("lets the real fix stand in where asked, through the same gate", () =>
    Effect.gen(function* () {
      const dir = yield* temporary
      // Of the unrepaired (2, 3, 8, 9) the even ones have a twin.
      const summary = yield* run(dir, world.teacherLayer(world.noCalls()), { twins: "whenUnrepaired" })
      const triplets = yield* Stream.runCollect(readJsonLines(nodePath.join(dir, vul2safeFiles.triplets), Triplet))
      assert.deepStrictEqual(
        triplets.map(({ provenance }) => `${provenance.source.idx} ${provenance.teacher}`),
        ["0 world", "1 world", "2 primevul fix", "6 world", "7 world", "8 primevul fix"]
      )
      assert.strictEqual(triplets[2]?.explanation, "the fix made by world")
      assert.deepStrictEqual(summary.rejects, {
        "reflect/not-accepted": 2,
        "gate/finding-remains": 2,
        "prompts/leak": 2
      })
      const broken = asSelections(Stream.make({ ...world.sample(2), twin: "int f2(" }))
      const stopped = yield* run(dir, world.teacherLayer(world.noCalls()), { samples: broken, twins: "whenUnrepaired" })
      assert.deepStrictEqual(stopped.rejects, { "gate/does-not-parse": 1 })
    })
  )

  it.live("refuses options that make no sense, and hands on a bad input row", () =>
    Effect.gen(function* () {
      const dir = yield* temporary
      for (const options of [
        { limit: 0 },
        { maxRounds: 0 },
        { auditShare: 1.5 },
        { auditShare: Number.NaN },
        { seed: 0.5 },
        { concurrency: 0 }
      ]) {
        const error = yield* Effect.flip(run(dir, world.teacherLayer(world.noCalls()), options))
        assert.strictEqual(error._tag, "UserError")
        assert.include(error.message, Object.keys(options)[0] ?? "?")
      }
      fs.mkdirSync(dir, { recursive: true })
      const file = nodePath.join(dir, "rows.jsonl")
      fs.writeFileSync(file, `{"idx":1}\n`)
      const error = yield* vul2safe({ samples: readPrimeVul(file) }).pipe(
        Effect.provide(Layer.mergeAll(world.teacherLayer(world.noCalls()), world.analyzerLayer, RunStore.layer(dir))),
        Effect.flip
      )
      assert.match(error.message, /rows\.jsonl:1: not a PrimeVul row: Missing key/)
    })
  )
})

const real = nodePath.resolve(import.meta.dirname, "../../../../shared/data/primevul/primevul_paired_dev.jsonl")
describe.skipIf(!fs.existsSync(real))(
  "40 real functions (skipped where ../shared/data is not beside the repository)",
  () => {
    it.live("go through the rule teacher and the analyzer panel, each with an outcome", (context) =>
      Effect.gen(function* () {
        const dir = yield* temporary
        const analyzer = Analyzer.layerPanel.pipe(Layer.provide(Sandbox.layer))
        const summary = yield* vul2safe({ samples: readPrimeVul(real), limit: 40 }).pipe(
          Effect.provide(Layer.mergeAll(TeacherRules.layer, analyzer, RunStore.layer(dir))),
          Effect.catchTag("AnalyzerError", (error) => Effect.sync(() => context.skip(error.message)))
        )
        const rejected = Object.entries(summary.rejects).filter(([key]) => !key.startsWith("select/"))
        assert.strictEqual(summary.samples, 40)
        assert.strictEqual(summary.triplets + rejected.reduce((sum, [, count]) => sum + count, 0), 40)
        // With the projects' own fixes where the rules know none, the gate passes many and stops some.
        const other = yield* temporary
        const more = yield* vul2safe({ samples: readPrimeVul(real), limit: 40, twins: "whenUnrepaired" }).pipe(
          Effect.provide(Layer.mergeAll(TeacherRules.layer, analyzer, RunStore.layer(other))),
          Effect.catchTag("AnalyzerError", (error) => Effect.sync(() => context.skip(error.message)))
        )
        assert.isAbove(more.triplets, 10)
        assert.isAbove(Object.entries(more.rejects).filter(([key]) => key.startsWith("gate/")).length, 0)
      })
    )
  }
)
