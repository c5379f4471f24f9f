/** Work that is submitted again and again: recorded once, in order, and recorded anew when a temporary buffer was outgrown. */
import { assert, layer } from "@effect/vitest"
import { Effect } from "effect"
import { Gpu, makeOps, type Program, type Tape, window } from "../src/index.ts"
import { blank, DeviceLayer, f32, read } from "./support.ts"

/** A program that counts how often it is recorded. */
const counted = (body: (tape: Tape) => void) => {
  let recorded = 0
  const program: Program = {
    label: "test",
    record: (tape) => {
      recorded++
      body(tape)
    }
  }
  return { program, recorded: () => recorded }
}

layer(DeviceLayer)("programs", (it) => {
  it.effect("a program is recorded once and works on what its buffers hold at the time", () =>
    Effect.gen(function* () {
      const gpu = yield* Gpu
      const ops = makeOps(gpu.info)
      const [x, y] = [yield* f32("x", [1, 2, 3, 4]), yield* blank("y", 4)]
      const { program, recorded } = counted((tape) => {
        ops.columnSum(tape, { x, out: y, rows: 2, cols: 2 })
        ops.columnSum(tape, { x: y, out: window(x, 0, 2), rows: 1, cols: 2, scale: 10 })
      })
      const before = yield* gpu.dispatches
      yield* gpu.run(program)
      assert.deepStrictEqual([...(yield* read(x))], [40, 60, 3, 4])
      yield* gpu.run(program)
      assert.deepStrictEqual([...(yield* read(x))], [430, 640, 3, 4])
      yield* gpu.write(x, Float32Array.of(0, 0, 1, 1))
      yield* gpu.run(program)
      assert.deepStrictEqual([...(yield* read(x))], [10, 10, 1, 1])
      assert.strictEqual(recorded(), 1)
      assert.strictEqual((yield* gpu.dispatches) - before, 6)
    })
  )

  it.effect("hundreds of dispatches, copies and clears between them, keep their order over several submits", () =>
    Effect.gen(function* () {
      const gpu = yield* Gpu
      const ops = makeOps(gpu.info)
      const [sum, other] = [yield* blank("sum", 1), yield* blank("other", 1)]
      // s ← 2 s + 1: after 8 steps from 0 it is 255.
      const body = (tape: Tape): void => {
        for (let round = 0; round < 30; round++) {
          tape.clear(sum)
          ops.columnSum(tape, { x: one, out: sum, rows: 1, cols: 1, accumulate: true })
          for (let step = 1; step < 8; step++) {
            tape.copy(sum, other)
            ops.columnSum(tape, { x: other, out: sum, rows: 1, cols: 1, accumulate: true })
            ops.columnSum(tape, { x: one, out: sum, rows: 1, cols: 1, accumulate: true })
          }
          ops.columnSum(tape, { x: sum, out: total, rows: 1, cols: 1, accumulate: true })
        }
      }
      const one = yield* f32("one", [1])
      const total = yield* f32("total", [0])
      yield* gpu.submit("test", body)
      assert.deepStrictEqual([...(yield* read(total))], [30 * 255])
      const { program } = counted(body)
      yield* gpu.run(program)
      yield* gpu.run(program)
      assert.deepStrictEqual([...(yield* read(total))], [90 * 255])
    })
  )

  it.effect("a temporary buffer that others outgrew is not used again", () =>
    Effect.gen(function* () {
      const gpu = yield* Gpu
      const ops = makeOps(gpu.info)
      const [x, y] = [yield* f32("x", [1, 2, 3, 4]), yield* blank("y", 2)]
      const { program, recorded } = counted((tape) => {
        const between = tape.scratch("program", "f32", 2)
        if (between === undefined) return
        ops.columnSum(tape, { x, out: between, rows: 2, cols: 2 })
        ops.columnSum(tape, { x: between, out: y, rows: 1, cols: 2, scale: 2 })
      })
      yield* gpu.run(program)
      yield* gpu.run(program)
      assert.strictEqual(recorded(), 1)
      yield* gpu.submit("outgrow", (tape) => void tape.scratch("program", "f32", 1000))
      yield* gpu.write(x, Float32Array.of(5, 6, 7, 8))
      yield* gpu.run(program)
      assert.deepStrictEqual([...(yield* read(y))], [24, 28])
      assert.strictEqual(recorded(), 2)
      yield* gpu.run(program)
      assert.strictEqual(recorded(), 2)
    })
  )

  it.effect("an impossible program fails each time it is run, with the reason", () =>
    Effect.gen(function* () {
      const gpu = yield* Gpu
      const y = yield* blank("y", 2)
      const { program } = counted((tape) => tape.require(false, "test", "nothing fits"))
      for (let i = 0; i < 2; i++) assert.include((yield* Effect.flip(gpu.run(program))).message, "nothing fits")
      yield* gpu.submit("test", (tape) => tape.clear(y))
    })
  )
})
