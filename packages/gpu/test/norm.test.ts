/** rms_norm, swiglu, embedding, column_sum: the operations between products. */
import { layer } from "@effect/vitest"
import { columnSum } from "@srcode/kernels/column_sum/reference"
import { gather, occurrences, scatter } from "@srcode/kernels/embedding/reference"
import { rmsNorm, rmsNormBackward } from "@srcode/kernels/rms_norm/reference"
import { swiglu, swigluBackward } from "@srcode/kernels/swiglu/reference"
import { Effect } from "effect"
import {
  assertClose,
  assertSameBits,
  blank,
  DeviceLayer,
  dot,
  f32,
  launch,
  numericGradient,
  opsOf,
  read,
  seeded,
  u32,
  variants
} from "./support.ts"

/** [rows, dim]: one row, one column, odd, multiples of 4, longer than a workgroup, more rows than a workgroup. */
const shapes: ReadonlyArray<readonly [number, number]> = [
  [1, 1],
  [1, 7],
  [5, 4],
  [3, 96],
  [2, 131],
  [1, 516],
  [139, 12]
]
const eps = 1e-6

layer(DeviceLayer)("row and element kernels", (it) => {
  for (const variant of variants) {
    it.effect(`rms_norm forward and backward on ${variant}`, () =>
      Effect.gen(function* () {
        const ops = yield* opsOf(variant)
        for (const [rows, dim] of shapes) {
          const name = `[${rows}, ${dim}]`
          const random = seeded(rows * 1000 + dim)
          const [x, w, dy] = [random.floats(rows * dim, 3), random.floats(dim), random.floats(rows * dim)]
          const old = random.floats(rows * dim)
          const t = { x: yield* f32("x", x), w: yield* f32("w", w), dy: yield* f32("dy", dy) }
          const [y, rstd] = [yield* blank("y", rows * dim), yield* blank("rstd", rows)]
          const [dx, added] = [yield* blank("dx", rows * dim), yield* f32("added", old)]
          const oldWeight = random.floats(dim)
          const dw = yield* f32("dw", oldWeight)
          const scratch = yield* blank("scratch", Math.ceil(rows / 128) * dim)
          yield* launch(ops, (tape, o) => {
            o.rmsNorm(tape, { x: t.x, w: t.w, y, rstd, rows, dim, eps })
            o.rmsNormBackward(tape, { ...t, rstd, dx, rows, dim, accumulate: false })
            o.rmsNormBackward(tape, { ...t, rstd, dx: added, rows, dim, accumulate: true })
            o.rmsNormBackwardWeight(tape, { x: t.x, rstd, dy: t.dy, dw, scratch, rows, dim })
          })
          const forward = rmsNorm(x, w, rows, dim, eps)
          const backward = rmsNormBackward(x, w, forward.rstd, dy, rows, dim)
          assertClose(`y ${name}`, yield* read(y), forward.y)
          assertClose(`rstd ${name}`, yield* read(rstd), forward.rstd)
          // With one column y hardly depends on x: what is left of dx is rounding, so it is held against the size of dy.
          if (dim > 1) {
            assertClose(`dx ${name}`, yield* read(dx), backward.dx)
            assertClose(
              `dx added ${name}`,
              yield* read(added),
              backward.dx.map((g, i) => g + old[i]!)
            )
          }
          assertClose(
            `dw ${name}`,
            yield* read(dw),
            backward.dw.map((g, i) => g + oldWeight[i]!)
          )
        }
      })
    )

    it.effect(`rms_norm keeps rows of zeros and large values finite on ${variant}`, () =>
      Effect.gen(function* () {
        const ops = yield* opsOf(variant)
        const x = new Float32Array(3 * 8)
        x.fill(1e15, 8, 16)
        x.fill(1e-15, 16, 24)
        const w = new Float32Array(8).fill(1)
        const [y, rstd] = [yield* blank("y", 24), yield* blank("rstd", 3)]
        const t = { x: yield* f32("x", x), w: yield* f32("w", w) }
        yield* launch(ops, (tape, o) => o.rmsNorm(tape, { ...t, y, rstd, rows: 3, dim: 8, eps }))
        assertClose("y", yield* read(y), rmsNorm(x, w, 3, 8, eps).y)
      })
    )
  }

  it.effect("rms_norm gradients agree with finite differences", () =>
    Effect.gen(function* () {
      const [rows, dim] = [3, 12]
      const random = seeded(5)
      const [x, w, dy] = [random.floats(rows * dim), random.floats(dim), random.floats(rows * dim)]
      const ops = yield* opsOf("software")
      const t = { x: yield* f32("x", x), w: yield* f32("w", w), dy: yield* f32("dy", dy) }
      const [y, rstd] = [yield* blank("y", rows * dim), yield* blank("rstd", rows)]
      const [dx, dw] = [yield* blank("dx", rows * dim), yield* f32("dw", new Float32Array(dim))]
      const scratch = yield* blank("scratch", dim)
      yield* launch(ops, (tape, o) => {
        o.rmsNorm(tape, { x: t.x, w: t.w, y, rstd, rows, dim, eps })
        o.rmsNormBackward(tape, { ...t, rstd, dx, rows, dim, accumulate: false })
        o.rmsNormBackwardWeight(tape, { x: t.x, rstd, dy: t.dy, dw, scratch, rows, dim })
      })
      assertClose(
        "dx",
        yield* read(dx),
        numericGradient(x, (at) => dot(dy, rmsNorm(at, w, rows, dim, eps).y))
      )
      assertClose(
        "dw",
        yield* read(dw),
        numericGradient(w, (at) => dot(dy, rmsNorm(x, at, rows, dim, eps).y))
      )
    })
  )

  it.effect("swiglu forward and backward, with gates far out on both sides", () =>
    Effect.gen(function* () {
      const ops = yield* opsOf("software")
      for (const [rows, dim] of shapes) {
        const random = seeded(rows + dim)
        const gu = random.floats(rows * 2 * dim, 4)
        gu[0] = -95
        if (dim > 2) gu.set([95, 0], 1)
        const dy = random.floats(rows * dim)
        const t = { gu: yield* f32("gu", gu), dy: yield* f32("dy", dy) }
        const y = yield* blank("y", rows * dim)
        yield* launch(ops, (tape, o) => {
          o.swiglu(tape, { gu: t.gu, y, rows, dim })
          o.swigluBackward(tape, { ...t, rows, dim })
        })
        assertClose(`y [${rows}, ${dim}]`, yield* read(y), swiglu(gu, rows, dim))
        assertClose(`dgu [${rows}, ${dim}]`, yield* read(t.gu), swigluBackward(gu, dy, rows, dim))
      }
      const random = seeded(1)
      const [gu, dy] = [random.floats(2 * 3 * 10), random.floats(2 * 5 * 3)]
      const numeric = numericGradient(gu, (at) => dot(dy, swiglu(at, 3, 10)), 1e-5)
      assertClose("reference against finite differences", swigluBackward(gu, dy, 3, 10), numeric, 1e-6)
    })
  )

  it.effect("embedding gathers rows and adds their gradients back", () =>
    Effect.gen(function* () {
      const ops = yield* opsOf("software")
      for (const [tableRows, dim, rows] of [
        [1, 1, 1],
        [5, 3, 17],
        [70, 8, 1],
        [9, 96, 40]
      ] as const) {
        const random = seeded(tableRows * 7 + rows)
        const table = random.floats(tableRows * dim)
        const id = random.integers(rows, tableRows)
        const dy = random.floats(rows * dim)
        const old = random.floats(tableRows * dim)
        const { start, order } = occurrences(id, tableRows)
        const t = { table: yield* f32("table", table), id: yield* u32("id", id), dy: yield* f32("dy", dy) }
        const index = { start: yield* u32("start", start), order: yield* u32("order", order) }
        const out = yield* blank("out", rows * dim)
        const [fresh, added] = [yield* blank("fresh", tableRows * dim), yield* f32("added", old)]
        yield* launch(ops, (tape, o) => {
          o.gatherRows(tape, { table: t.table, id: t.id, out, rows, dim })
          o.scatterRows(tape, { dy: t.dy, ...index, dtable: fresh, rows: tableRows, dim, accumulate: false })
          o.scatterRows(tape, { dy: t.dy, ...index, dtable: added, rows: tableRows, dim, accumulate: true })
        })
        assertClose("gather", yield* read(out), gather(table, id, rows, dim), 0)
        assertClose("scatter", yield* read(fresh), scatter(dy, id, tableRows, dim))
        assertClose("scatter added", yield* read(added), scatter(dy, id, tableRows, dim, old))
      }
    })
  )

  it.effect("column sums in one step and in blocks of 128 rows", () =>
    Effect.gen(function* () {
      const ops = yield* opsOf("software")
      for (const [rows, cols] of [
        [1, 1],
        [127, 3],
        [128, 5],
        [129, 5],
        [700, 2],
        [3, 133]
      ] as const) {
        const random = seeded(rows * cols)
        const x = random.floats(rows * cols)
        const old = random.floats(cols)
        const t = yield* f32("x", x)
        const blocks = Math.ceil(rows / 128)
        const scratch = yield* blank("scratch", blocks * cols)
        const outs = [yield* blank("plain", cols), yield* f32("accumulated", old), yield* f32("blocks", old)] as const
        yield* launch(ops, (tape, o) => {
          o.columnSum(tape, { x: t, out: outs[0], rows, cols })
          o.columnSum(tape, { x: t, out: outs[1], rows, cols, scale: -0.5, accumulate: true })
          o.columnSum(tape, { x: t, out: outs[2], rows, cols, scale: 3, accumulate: true, scratch })
        })
        assertClose("plain", yield* read(outs[0]), columnSum(x, rows, cols))
        assertClose("accumulated", yield* read(outs[1]), columnSum(x, rows, cols, -0.5, old))
        assertClose("in blocks", yield* read(outs[2]), columnSum(x, rows, cols, 3, old))
      }
    })
  )

  for (const variant of variants) {
    it.effect(`same inputs give the same bits on ${variant}`, () =>
      Effect.gen(function* () {
        const ops = yield* opsOf(variant)
        const [rows, dim] = [37, 131]
        const random = seeded(9)
        const t = {
          x: yield* f32("x", random.floats(rows * dim)),
          w: yield* f32("w", random.floats(dim)),
          dy: yield* f32("dy", random.floats(rows * dim))
        }
        const run = Effect.gen(function* () {
          const [y, rstd] = [yield* blank("y", rows * dim), yield* blank("rstd", rows)]
          const [dx, dw] = [yield* blank("dx", rows * dim), yield* f32("dw", new Float32Array(dim))]
          const scratch = yield* blank("scratch", dim)
          yield* launch(ops, (tape, o) => {
            o.rmsNorm(tape, { x: t.x, w: t.w, y, rstd, rows, dim, eps })
            o.rmsNormBackward(tape, { ...t, rstd, dx, rows, dim, accumulate: false })
            o.rmsNormBackwardWeight(tape, { x: t.x, rstd, dy: t.dy, dw, scratch, rows, dim })
          })
          return [yield* read(y), yield* read(dx), yield* read(dw)] as const
        })
        const [first, second] = [yield* run, yield* run]
        for (const i of [0, 1, 2] as const) assertSameBits(`output ${i}`, first[i], second[i])
      })
    )
  }
})
