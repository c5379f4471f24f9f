/** The service itself: memory, transfers, refusals, failures, profiling; and every kernel text through a compiler. */
import { cpSync, mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { pathToFileURL } from "node:url"
import { assert, describe, it, layer } from "@effect/vitest"
import { ConfigProvider, Effect, Exit, Layer, type Scope } from "effect"
import { Gpu, GpuDawn, type GpuError, makeOps, type Tape, window } from "../src/index.ts"
import { makeDevice } from "../src/internal/device.ts"
import { assertClose, blank, DeviceLayer, f32, read, seeded, u32 } from "./support.ts"

/** Runs on a device of its own, for tests that break it or count its bytes. */
const alone = <A, E>(body: Effect.Effect<A, E, Gpu | Scope.Scope>, options: Partial<GpuDawn.GpuOptions> = {}) =>
  body.pipe(Effect.scoped, Effect.provide(GpuDawn.layerWith({ device: "auto", ...options }), { local: true }))

const refusal = (record: (tape: Tape) => void): Effect.Effect<GpuError, void, Gpu> =>
  Effect.flatMap(Gpu, (gpu) => Effect.flip(gpu.submit("test", record)))

describe("memory", () => {
  it.effect("an allocation beyond the budget is refused before anything is allocated", () =>
    alone(
      Effect.gen(function* () {
        const gpu = yield* Gpu
        yield* gpu.alloc("first", "f32", 150)
        const before = yield* gpu.memory
        assert.deepStrictEqual(before, { live: 608, peak: 608, budget: 1024 })
        const error = yield* Effect.flip(gpu.alloc("second", "f32", 150))
        assert.strictEqual(error.reason._tag, "OutOfMemory")
        assert.include(error.message, "second")
        assert.include(error.message, "the memory budget of 1024")
        assert.deepStrictEqual(yield* gpu.memory, before)
        // What still fits is given.
        yield* gpu.alloc("third", "f32", 100)
      }),
      { memory: 1024 }
    )
  )

  it.effect("scopes give their bytes back, on success and on failure; the peak stays", () =>
    alone(
      Effect.gen(function* () {
        const gpu = yield* Gpu
        yield* Effect.scoped(
          Effect.gen(function* () {
            yield* gpu.alloc("a", "f32", 100)
            yield* gpu.alloc("b", "u32", 1)
            assert.strictEqual((yield* gpu.memory).live, 416)
          })
        )
        yield* Effect.exit(Effect.scoped(Effect.andThen(gpu.alloc("c", "f32", 8), Effect.fail("stop"))))
        assert.deepInclude(yield* gpu.memory, { live: 0, peak: 416 })
      })
    )
  )

  it.effect("a driver that runs out, on a device that does not tell its memory, is told with what helps", () =>
    alone(
      Effect.gen(function* () {
        const gpu = yield* Gpu
        // Dawn's null backend gives out 512 MiB
        const allocate = Effect.forEach(
          Array.from({ length: 9 }, (_, i) => `part ${i}`),
          (label) => Effect.andThen(gpu.alloc(label, "f32", 2 ** 24), gpu.idle)
        )
        const error = yield* Effect.flip(allocate)
        assert.strictEqual(error.reason._tag, "OutOfMemory", error.message)
        for (const words of [
          "alloc part 8",
          `${9 * 2 ** 26} bytes`,
          "--quantize",
          "batches",
          "SRCODE_GPU_MEMORY",
          "plan"
        ])
          assert.include(error.message, words)
        assert.notMatch(error.message, /Infinity|NaN|\n/)
      }),
      { device: "null", memory: Number.POSITIVE_INFINITY }
    )
  )

  it.effect("buffers over the device's binding limit and impossible lengths are refused", () =>
    alone(
      Effect.gen(function* () {
        const gpu = yield* Gpu
        const limit = gpu.info.limits.maxStorageBufferBindingSize ?? 0
        assert.isAbove(limit, 0)
        const error = yield* Effect.flip(gpu.alloc("huge", "f32", limit / 4 + 16))
        assert.strictEqual(error.reason._tag, "OutOfMemory")
        assert.include(error.message, "largest storage binding")
        for (const length of [-1, 1.5, Number.NaN]) {
          assert.strictEqual((yield* Effect.flip(gpu.alloc("odd", "f32", length))).reason._tag, "InvalidDispatch")
        }
        assert.strictEqual((yield* gpu.memory).live, 0)
      })
    )
  )
})

layer(DeviceLayer)("transfers and the recorder", (it) => {
  it.effect("what is written is read back, bit by bit, also through windows", () =>
    Effect.gen(function* () {
      const gpu = yield* Gpu
      for (const n of [1, 3, 64, 1001]) {
        const floats = seeded(n).floats(n)
        floats[0] = -0
        assert.deepStrictEqual(yield* gpu.read(yield* f32("f", floats)), floats)
        const words = Uint32Array.from({ length: n }, (_, i) => 0xffffffff - i)
        assert.deepStrictEqual(yield* gpu.read(yield* u32("u", words)), words)
      }
      const all = yield* f32("all", new Float32Array(200))
      yield* gpu.write(window(all, 128, 3), Float32Array.from([7, 8, 9]))
      assert.deepStrictEqual([...(yield* gpu.read(window(all, 128, 4)))], [7, 8, 9, 0])
      assert.isTrue((yield* gpu.read(yield* gpu.alloc("fresh", "f32", 50))).every((v) => v === 0))
      const error = yield* Effect.flip(gpu.write(window(all, 128, 3), new Float32Array(4)))
      assert.include(error.message, "4 elements into all [3]")
    })
  )

  it.effect("copies and clears keep their place among dispatches", () =>
    Effect.gen(function* () {
      const gpu = yield* Gpu
      const ops = makeOps(gpu.info)
      const x = yield* f32("x", [1, 2, 3, 4])
      const [y, sum] = [yield* blank("y", 4), yield* f32("sum", [10])]
      yield* gpu.submit("test", (tape) => {
        tape.copy(x, y)
        ops.columnSum(tape, { x: y, out: sum, rows: 4, cols: 1, accumulate: true })
        tape.clear(y)
        ops.columnSum(tape, { x: y, out: sum, rows: 4, cols: 1, accumulate: true })
        tape.copy(x, y, 2)
      })
      assert.deepStrictEqual([...(yield* read(sum))], [20])
      assert.deepStrictEqual([...(yield* read(y))], [1, 2, 0, 0])
    })
  )

  it.effect("impossible dispatches name the kernel and the reason, and nothing of the tape runs", () =>
    Effect.gen(function* () {
      const gpu = yield* Gpu
      const ops = makeOps(gpu.info)
      const [t, other] = [yield* f32("t", new Float32Array(256)), yield* blank("other", 256)]
      const swiglu = (tape: Tape, gu = t, y = other, rows = 1) =>
        tape.dispatch("swiglu_forward", { gu, y }, { rows, dim: 4, span: 4 }, [1])
      const say = (record: (tape: Tape) => void, ...words: ReadonlyArray<string>) =>
        Effect.gen(function* () {
          const error = yield* refusal(record)
          assert.strictEqual(error.reason._tag, "InvalidDispatch")
          for (const word of words) assert.include(error.message, word)
          assert.notInclude(error.message, "\n")
        })
      yield* say((tape) => swiglu(tape, t, window(other, 2, 8)), "swiglu_forward", "binding y (other)", "element 2")
      yield* say((tape) => swiglu(tape, t, window(t, 64, 8)), "bound both for reading and for writing")
      yield* say((tape) => swiglu(tape, t, window(other, 0, 0)), "binding y (other) is empty")
      yield* say((tape) => swiglu(tape, t, window(other, 192, 128)), "covers elements 192…320 of a buffer of 256")
      yield* say((tape) => swiglu(tape, t, other, -1), "parameter rows = -1")
      yield* say((tape) => swiglu(tape, t, other, 1.5), "parameter rows = 1.5")
      yield* say(
        (tape) => tape.dispatch("swiglu_forward", { gu: t, y: other }, { rows: 1, dim: 1, span: 1 }, [65536]),
        "grid [65536, 1, 1]"
      )
      yield* say(
        (tape) =>
          tape.dispatch(
            "gae_forward",
            { reward: t, value: t, first: t as never, bootstrap: t, advantage: other, returns: other },
            { sequences: 1, gamma: 1, lambda: 1 },
            [1]
          ),
        "bound for writing twice"
      )
      const missing: { gu: typeof t; y?: typeof t } = { gu: t }
      yield* say(
        (tape) => tape.dispatch("swiglu_forward", missing as never, { rows: 1, dim: 1, span: 1 }, [1]),
        "binding y is missing"
      )
      yield* say((tape) => tape.copy(t, t), "same buffer")
      yield* say((tape) => tape.copy(t, window(other, 0, 8)), "256 elements")
      yield* say((tape) => tape.clear(window(t, 192, 65)), "covers elements")
      yield* say((tape) => ops.swiglu(tape, { gu: t, y: other, rows: 40, dim: 4 }), "swiglu", "gu (t) holds 256 of 320")
      // The first fault counts, and the good dispatch before it did not run either.
      yield* say((tape) => {
        tape.copy(other, t)
        swiglu(tape, t, other, -1)
        tape.copy(t, t)
      }, "parameter rows = -1")
      assert.isTrue((yield* read(t)).every((v) => v === 0))
    })
  )

  it.effect("an empty grid is nothing to do; many invocations fold into a second dimension", () =>
    Effect.gen(function* () {
      const gpu = yield* Gpu
      const before = yield* gpu.dispatches
      const [t, other] = [yield* f32("t", [1, 2]), yield* blank("other", 1)]
      yield* gpu.submit("test", (tape) =>
        tape.dispatch("swiglu_forward", { gu: t, y: other }, { rows: 0, dim: 1, span: 1 }, [0])
      )
      assert.strictEqual(yield* gpu.dispatches, before)
      // More rows, and more workgroups of 8, than the 65,535 of one dimension.
      const [rows, ops] = [600_001, makeOps({ ...gpu.info, software: true })]
      const id = yield* gpu.alloc("id", "u32", rows)
      const out = yield* gpu.alloc("out", "f32", rows)
      const sum = yield* gpu.alloc("sum", "f32", rows)
      yield* gpu.submit("test", (tape) => {
        ops.gatherRows(tape, { table: t, id, out, rows, dim: 1 })
        ops.columnSum(tape, { x: out, out: sum, rows: 1, cols: rows, scale: 2 })
      })
      assert.isTrue((yield* read(out)).every((v) => v === 1))
      assert.isTrue((yield* read(sum)).every((v) => v === 2))
      assert.strictEqual(yield* gpu.dispatches, before + 2)
    })
  )

  it.effect("profile runs the tape and times each dispatch where the device has timestamps", () =>
    Effect.gen(function* () {
      const gpu = yield* Gpu
      const ops = makeOps(gpu.info)
      const [x, y, sum] = [yield* f32("x", [1, -1, 2, 2]), yield* blank("y", 2), yield* blank("sum", 1)]
      const times = yield* gpu.profile("test", (tape) => {
        ops.swiglu(tape, { gu: x, y, rows: 1, dim: 2 })
        tape.copy(y, x, 2)
        ops.columnSum(tape, { x: y, out: sum, rows: 2, cols: 1 })
      })
      assertClose("sum", yield* read(sum), [2 / (1 + Math.exp(-1)) - 2 / (1 + Math.exp(1))])
      if (gpu.info.features.includes("timestamp-query")) {
        assert.deepStrictEqual(
          times.map((t) => t.kernel),
          ["swiglu_forward", "column_sum_forward"]
        )
        for (const { nanoseconds } of times) {
          assert.isAbove(nanoseconds, 0)
          assert.isBelow(nanoseconds, 60e9)
        }
      } else assert.deepStrictEqual(times, [])
    })
  )
})

describe("failures", () => {
  it.effect("an error that Dawn reports outside of any scope is typed, and every later verb fails with it", () =>
    alone(
      Effect.gen(function* () {
        const gpu = yield* Gpu
        const ops = makeOps(gpu.info)
        const [x, y] = [yield* f32("x", new Float32Array(8)), yield* blank("y", 4)]
        x.buffer.destroy()
        yield* gpu
          .submit("a step", (tape) => ops.swiglu(tape, { gu: x, y, rows: 1, dim: 4 }))
          .pipe(Effect.andThen(gpu.idle), Effect.exit)
        const verbs: ReadonlyArray<Effect.Effect<unknown, GpuError, Scope.Scope>> = [
          gpu.submit("next", () => undefined),
          gpu.alloc("more", "f32", 4),
          gpu.write(y, new Float32Array(4)),
          gpu.read(y),
          gpu.idle,
          gpu.profile("next", () => undefined),
          gpu.compile(["swiglu_forward"])
        ]
        for (const verb of verbs) {
          const error = yield* Effect.flip(verb)
          assert.strictEqual(error.reason._tag, "Validation")
          assert.include(error.message, "a step")
        }
      })
    )
  )

  it.effect("--device hardware refuses a software driver and says what to do", () =>
    Effect.gen(function* () {
      const found = yield* alone(Effect.map(Gpu, (gpu) => gpu.info.software))
      const exit = yield* Effect.result(alone(Gpu, { device: "hardware" }))
      if (!found) return assert.strictEqual(exit._tag, "Success")
      if (exit._tag === "Success") return assert.fail("a software driver was accepted as hardware")
      assert.strictEqual(exit.failure.reason._tag, "NoAdapter")
      assert.include(exit.failure.message, "--device hardware")
      assert.include(exit.failure.message, "--device auto")
    })
  )

  it.effect("the device may come from Config, and a misspelt one is refused", () =>
    Effect.gen(function* () {
      const withConfig = (values: Record<string, string>) =>
        Effect.map(Gpu, (gpu) => gpu.info.backend).pipe(
          Effect.provide(GpuDawn.layer.pipe(Layer.provide(ConfigProvider.layer(ConfigProvider.fromUnknown(values)))))
        )
      assert.strictEqual(yield* withConfig({ SRCODE_DEVICE: "null" }), "null")
      assert.isTrue(Exit.isFailure(yield* Effect.exit(withConfig({ SRCODE_DEVICE: "abacus" }))))
    })
  )
})

/** A copy of the kernels in which one file was changed. */
const withChanged = (file: string, text: string) =>
  Effect.acquireRelease(
    Effect.sync(() => {
      const folder = mkdtempSync(join(tmpdir(), "kernels-"))
      cpSync(new URL("../../../kernels/", import.meta.url), folder, { recursive: true })
      writeFileSync(join(folder, file), text)
      return folder
    }),
    (folder) => Effect.sync(() => rmSync(folder, { recursive: true }))
  ).pipe(Effect.map((folder) => pathToFileURL(`${folder}/`)))

describe("kernel texts", () => {
  it.effect("a text that differs from the manifest is refused on every use, the others still work", () =>
    Effect.gen(function* () {
      const folder = yield* withChanged("swiglu/forward.wgsl", "fn main() {}")
      const gpu = yield* makeDevice({ device: "null" }, { root: folder })
      for (let i = 0; i < 2; i++) {
        const error = yield* Effect.flip(gpu.compile(["swiglu_forward"]))
        assert.strictEqual(error.reason._tag, "ShaderInvalid")
        assert.strictEqual(
          error.message,
          "kernel swiglu_forward is invalid: the file differs from the committed manifest: run `npm run codegen`"
        )
      }
      yield* gpu.compile(["swiglu_backward"])
    }).pipe(Effect.scoped)
  )

  it.effect("a text that the compiler rejects fails with the kernel's name, each time, and spoils nothing else", () =>
    alone(
      Effect.gen(function* () {
        const gpu = yield* Gpu
        const [x, y] = [yield* f32("x", [1, 2]), yield* blank("y", 1)]
        const broken = (tape: Tape) =>
          tape.dispatch("swiglu_forward", { gu: x, y }, { rows: 1, dim: 1, span: 1 }, [1], { WG: 0 })
        for (let i = 0; i < 2; i++) {
          const error = yield* Effect.flip(gpu.submit("test", broken))
          assert.strictEqual(error.reason._tag, "ShaderInvalid")
          assert.include(error.message, "kernel swiglu_forward is invalid")
          assert.include(error.message, "workgroup_size")
        }
        yield* gpu.submit("test", (tape) => makeOps(gpu.info).swiglu(tape, { gu: x, y, rows: 1, dim: 1 }))
        assertClose("y", yield* read(y), [2 / (1 + Math.exp(-1))])
      })
    )
  )
})
