import { NodeServices } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { cwe } from "@srcode/domain"
import { Effect, FileSystem, Layer, Path, Ref } from "effect"
import {
  NoRepair,
  Rejected,
  type RepairRequest,
  Teacher,
  TeacherError,
  TeacherReplay,
  teacherError
} from "../src/index.ts"
import { canonicalJson, requestKey } from "../src/internal/canonical.ts"

const request: RepairRequest = {
  language: "c",
  code: "int f(void) { return 0; } // é🙂",
  cwes: [cwe(787)],
  advisory: null,
  critique: null
}
const withDir = <A, E, R>(body: (dir: string) => Effect.Effect<A, E, R>) =>
  Effect.gen(function* () {
    const fs = yield* FileSystem.FileSystem
    return yield* body(yield* fs.makeTempDirectoryScoped())
  }).pipe(Effect.scoped, Effect.provide(NodeServices.layer))

const counting = (calls: Ref.Ref<number>) =>
  Teacher.layerTest({
    name: "counted",
    repair: (r) =>
      Ref.updateAndGet(calls, (n) => n + 1).pipe(
        Effect.flatMap((n) =>
          r.code === "refuse"
            ? Effect.fail(teacherError(new NoRepair({ detail: "a refusal" })))
            : r.code === "fault"
              ? Effect.fail(teacherError(new Rejected({ status: 400, detail: "a fault" })))
              : Effect.succeed({ code: `fixed ${n}`, explanation: "why", cwe: cwe(787), cost: 0.5 })
        )
      ),
    secureSpans: () => Effect.succeed([{ quote: "é🙂", occurrence: 2, label: "l", cwe: null, why: "w" }])
  })

const ask = (r: RepairRequest) => Teacher.use((teacher) => teacher.repair(r))

describe("TeacherReplay", () => {
  it("a request's key does not depend on the order of its fields", () => {
    assert.strictEqual(canonicalJson({ b: [1, { d: null, c: "é" }], a: true }), '{"a":true,"b":[1,{"c":"é","d":null}]}')
    assert.strictEqual(requestKey("m", { a: 1, b: 2 }), requestKey("m", { b: 2, a: 1 }))
    assert.notStrictEqual(requestKey("m", { a: 1 }), requestKey("n", { a: 1 }))
  })

  it.effect("replays what was recorded, refusals too, and asks nobody", () =>
    withDir((dir) =>
      Effect.gen(function* () {
        const calls = yield* Ref.make(0)
        const recorder = TeacherReplay.record(dir).pipe(Layer.provide(counting(calls)))
        const first = yield* ask(request).pipe(Effect.provide(recorder))
        yield* ask({ ...request, code: "refuse" }).pipe(Effect.flip, Effect.provide(recorder))
        yield* Teacher.use((t) => t.secureSpans({ prompt: "p", response: "r", language: "c" })).pipe(
          Effect.provide(recorder)
        )
        assert.strictEqual(yield* Ref.get(calls), 2)

        const replay = TeacherReplay.layer(dir)
        yield* Effect.gen(function* () {
          const teacher = yield* Teacher
          assert.strictEqual(teacher.name, "counted")
          assert.deepStrictEqual(yield* teacher.repair(request), first)
          const refusal = yield* Effect.flip(teacher.repair({ ...request, code: "refuse" }))
          assert.instanceOf(refusal, TeacherError)
          assert.strictEqual(refusal.reason._tag, "NoRepair")
          assert.include(refusal.message, "a refusal")
          const spans = yield* teacher.secureSpans({ prompt: "p", response: "r", language: "c" })
          assert.deepStrictEqual(spans, [{ quote: "é🙂", occurrence: 2, label: "l", cwe: null, why: "w" }])
        }).pipe(Effect.provide(replay))
        assert.strictEqual(yield* Ref.get(calls), 2)
      })
    )
  )

  it.effect("a missing recording is a typed error; faults are never recorded", () =>
    withDir((dir) =>
      Effect.gen(function* () {
        const calls = yield* Ref.make(0)
        const fault = { ...request, code: "fault" }
        yield* ask(fault).pipe(
          Effect.flip,
          Effect.provide(TeacherReplay.record(dir).pipe(Layer.provide(counting(calls))))
        )
        const error = yield* ask(fault).pipe(Effect.flip, Effect.provide(TeacherReplay.layer(dir)))
        assert.instanceOf(error, TeacherError)
        assert.strictEqual(error.reason._tag, "NotRecorded")
        assert.notInclude(error.message, "\n")
      })
    )
  )

  it.effect("a damaged or foreign recording is named, not believed", () =>
    withDir((dir) =>
      Effect.gen(function* () {
        const fs = yield* FileSystem.FileSystem
        const path = yield* Path.Path
        const absent = yield* ask(request).pipe(Effect.provide(TeacherReplay.layer(dir)), Effect.flip)
        assert.instanceOf(absent, TeacherError)
        assert.strictEqual(absent.reason._tag, "Storage")

        const calls = yield* Ref.make(0)
        yield* ask(request).pipe(Effect.provide(TeacherReplay.record(dir).pipe(Layer.provide(counting(calls)))))
        const key = requestKey("repair", request)
        const file = path.join(dir, key.slice(0, 2), `${key}.json`)
        const text = yield* fs.readFileString(file)
        for (const damage of [text.slice(0, 60), "", text.replace('"cost"', '"coast"'), "[]"]) {
          yield* fs.writeFileString(file, damage)
          const error = yield* ask(request).pipe(Effect.provide(TeacherReplay.layer(dir)), Effect.flip)
          assert.instanceOf(error, TeacherError)
          assert.strictEqual(error.reason._tag, "Storage", damage)
        }
        assert.deepStrictEqual(
          (yield* fs.readDirectory(path.dirname(file))).filter((name) => name.startsWith(".record-")),
          []
        )
      })
    )
  )
})
