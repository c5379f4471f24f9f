/** The optimiser, the scalar heads and the adapter mask against their references. */
import { assert, layer } from "@effect/vitest"
import { adamw } from "@srcode/kernels/adamw/reference"
import { gradNorm } from "@srcode/kernels/grad_norm/reference"
import { blockDiagonal } from "@srcode/kernels/lora/reference"
import { valueHead, valueHeadBackward } from "@srcode/kernels/value_head/reference"
import { Effect } from "effect"
import { normBlock } from "../src/index.ts"
import { assertClose, blank, DeviceLayer, f32, launch, opsOf, read, seeded, variants } from "./support.ts"

layer(DeviceLayer)("value head and adapter mask", (it) => {
  it.effect("value head forward and backward against the oracle, with the bias and accumulation", () =>
    Effect.gen(function* () {
      const ops = yield* opsOf("software")
      for (const [rows, dim] of [
        [1, 1],
        [3, 96],
        [70, 5]
      ] as const) {
        const random = seeded(rows)
        const [h, w, dValue] = [random.floats(rows * dim), random.floats(dim + 1), random.floats(rows)]
        const [oldH, oldW] = [random.floats(rows * dim), random.floats(dim + 1)]
        const t = { h: yield* f32("h", h), w: yield* f32("w", w), dValue: yield* f32("dValue", dValue), rows, dim }
        const value = yield* blank("value", rows)
        const [fresh, added, dw] = [
          yield* blank("fresh", rows * dim),
          yield* f32("added", oldH),
          yield* f32("dw", oldW)
        ]
        yield* launch(ops, (tape, o) => {
          o.valueHead(tape, { ...t, value })
          o.valueHeadBackward(tape, { ...t, dh: fresh, accumulate: false })
          o.valueHeadBackward(tape, { ...t, dh: added, dw, accumulate: true })
        })
        const expected = valueHeadBackward(h, w, dValue, rows, dim)
        assertClose("value", yield* read(value), valueHead(h, w, rows, dim))
        assertClose("dh", yield* read(fresh), expected.dh)
        const plus = (x: Float64Array, old: Float32Array) => x.map((v, i) => v + old[i]!)
        assertClose("dh added", yield* read(added), plus(expected.dh, oldH))
        assertClose("dw", yield* read(dw), plus(expected.dw, oldW))
      }
    })
  )

  it.effect("the gradient of a grouped adapter keeps its diagonal blocks only", () =>
    Effect.gen(function* () {
      const ops = yield* opsOf("software")
      for (const [ends, rank] of [
        [[5], 3],
        [[4, 9], 1],
        [[8, 10, 12], 8]
      ] as const) {
        const rows = ends.at(-1)!
        const db = seeded(rows).floats(rows * ends.length * rank)
        const t = yield* f32("db", db)
        yield* launch(ops, (tape, o) => o.loraMask(tape, { db: t, rows, rank, ends }))
        assertClose("db", yield* read(t), blockDiagonal(db, rank, ends), 0)
      }
    })
  )
})

layer(DeviceLayer)("optimiser", (it) => {
  for (const variant of variants) {
    it.effect(`gradient norm: blocks, clipping, and the flag for NaN, infinities and overflow on ${variant}`, () =>
      Effect.gen(function* () {
        const ops = yield* opsOf(variant)
        const run = (values: Float32Array, clip: number) =>
          Effect.gen(function* () {
            const n = values.length
            const g = yield* f32("g", values)
            const [partial, out] = [yield* blank("partial", 2 * Math.ceil(n / normBlock)), yield* blank("out", 3)]
            yield* launch(ops, (tape, o) => o.gradNorm(tape, { g, partial, out, n, clip }))
            return [...(yield* read(out))] as const
          })
        for (const n of [1, 511, 512, 513, 5000]) {
          const values = seeded(n).floats(n)
          for (const clip of [0, 1, 1e6]) {
            const expected = gradNorm(values, clip)
            assertClose(`n ${n} clip ${clip}`, yield* run(values, clip), [expected.scale, expected.norm, 0])
          }
        }
        assert.deepStrictEqual(yield* run(new Float32Array(5), 1), [1, 0, 0])
        for (const bad of [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY]) {
          for (const at of [0, 700, 1199]) {
            const values = seeded(1).floats(1200)
            values[at] = bad
            const [scale, norm, flag] = yield* run(values, 1)
            assert.strictEqual(scale, 0)
            assert.strictEqual(flag, 1)
            assert.isTrue(Number.isFinite(norm))
          }
        }
        const [scale, , flag] = yield* run(new Float32Array(4).fill(3e38), 1)
        assert.strictEqual(scale, 0)
        assert.strictEqual(flag, 1)
      })
    )
  }

  const options = { lr: 3e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, weightDecay: 0.1 }

  it.effect("adamw follows the reference over several steps, with decay and a clip factor", () =>
    Effect.gen(function* () {
      const ops = yield* opsOf("software")
      for (const n of [1, 63, 131]) {
        const random = seeded(n)
        const start = random.floats(n)
        const state = { w: Float64Array.from(start), m: new Float64Array(n), v: new Float64Array(n) }
        const t = { w: yield* f32("w", start), m: yield* f32("m", state.m), v: yield* f32("v", state.v) }
        const clip = yield* f32("clip", [0.5, 2, 0])
        for (let step = 1; step <= 6; step++) {
          const gradient = random.floats(n, 10 ** (step - 4))
          const g = yield* f32("g", gradient)
          yield* launch(ops, (tape, o) => o.adamw(tape, { ...t, g, clip, n, step, ...options }))
          adamw(state, gradient, step, options, 0.5)
        }
        assertClose("m", yield* read(t.m), state.m)
        assertClose("v", yield* read(t.v), state.v)
        // The change is what the optimiser does; the weights alone would hide an error in it. Each step rounds the weight once.
        const w = yield* read(t.w)
        for (let i = 0; i < n; i++) {
          const change = state.w[i]! - start[i]!
          const rounding = 6 * 2 ** -24 * (Math.abs(start[i]!) + Math.abs(change))
          assert.isAtMost(Math.abs(w[i]! - state.w[i]!), 1e-4 * Math.abs(change) + rounding, `w[${i}] of ${n}`)
        }
      }
    })
  )

  it.effect(
    "closed forms: the first step moves by lr against the sign; no gradient decays by lr·wd; not finite changes nothing",
    () =>
      Effect.gen(function* () {
        const ops = yield* opsOf("software")
        const run = (gradient: ReadonlyArray<number>, clip: ReadonlyArray<number>, weightDecay: number) =>
          Effect.gen(function* () {
            const t = {
              w: yield* f32("w", [1, 1, 1]),
              m: yield* f32("m", [0, 0, 0]),
              v: yield* f32("v", [0, 0, 0]),
              g: yield* f32("g", gradient),
              clip: yield* f32("clip", clip)
            }
            yield* launch(ops, (tape, o) => o.adamw(tape, { ...t, n: 3, step: 1, ...options, weightDecay }))
            return { w: yield* read(t.w), m: yield* read(t.m) }
          })
        assertClose("sign", (yield* run([1e-3, -7, 20], [1, 0, 0], 0)).w, [0.997, 1.003, 0.997], 1e-6)
        assertClose("decay", (yield* run([0, 0, 0], [1, 0, 0], 0.5)).w, Array(3).fill(1 - 3e-3 * 0.5), 1e-6)
        const skipped = yield* run([Number.NaN, 1, 2], [0, 1, 1], 0.5)
        assert.deepStrictEqual([...skipped.w, ...skipped.m], [1, 1, 1, 0, 0, 0])
      })
  )
})
