/** rope: splitting, rotation, scattered key-value rows, and the norm of query and key heads before it. */
import { assert, layer } from "@effect/vitest"
import {
  type HeadShape,
  headNorm,
  headNormBackward,
  rope,
  ropeBackward,
  ropeTable
} from "@srcode/kernels/rope/reference"
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

/** One pair, grouped queries 1, 2, 4 and 7, heads narrower and wider than a workgroup, odd numbers of pairs. */
const shapes: ReadonlyArray<HeadShape> = [
  { rows: 1, heads: 1, kvHeads: 1, headDim: 2 },
  { rows: 5, heads: 4, kvHeads: 2, headDim: 24 },
  { rows: 3, heads: 7, kvHeads: 1, headDim: 64 },
  { rows: 2, heads: 2, kvHeads: 2, headDim: 128 },
  { rows: 4, heads: 8, kvHeads: 2, headDim: 10 },
  { rows: 2, heads: 3, kvHeads: 1, headDim: 260 }
]
const kvRows = 7

/** Seeded inputs of one shape, on the host and on the device; key-value stores start at zero. */
const inputs = Effect.fn("test.ropeInputs")(function* (shape: HeadShape, seed: number) {
  const random = seeded(seed)
  const { rows, heads, kvHeads, headDim } = shape
  const host = {
    qkv: random.floats(rows * (heads + 2 * kvHeads) * headDim),
    weight: random.floats(2 * headDim).map((x) => 1 + 0.3 * x),
    table: Float32Array.from(ropeTable(600, headDim, 10_000)),
    position: [599, 0, 17, 300, 1].slice(0, rows),
    kvRow: [6, 2, 0, 5, 3].slice(0, rows),
    dq: random.floats(rows * heads * headDim),
    dk: random.floats(rows * kvHeads * headDim),
    dv: random.floats(rows * kvHeads * headDim)
  }
  const device = {
    qkv: yield* f32("qkv", host.qkv),
    position: yield* u32("position", host.position),
    kvRow: yield* u32("kvRow", host.kvRow),
    table: yield* f32("table", host.table),
    dq: yield* f32("dq", host.dq),
    dk: yield* f32("dk", host.dk),
    dv: yield* f32("dv", host.dv)
  }
  const out = {
    q: yield* blank("q", rows * heads * headDim),
    k: yield* f32("k", new Float32Array(kvRows * kvHeads * headDim)),
    v: yield* f32("v", new Float32Array(kvRows * kvHeads * headDim)),
    dqkv: yield* blank("dqkv", host.qkv.length)
  }
  return { host, device, out, weight: yield* f32("weight", host.weight) }
})

layer(DeviceLayer)("rope", (it) => {
  it.effect("forward into shuffled cache rows, and backward, against the oracle", () =>
    Effect.gen(function* () {
      const ops = yield* opsOf("software")
      for (const [i, shape] of shapes.entries()) {
        const { host, device, out } = yield* inputs(shape, 20 + i)
        yield* launch(ops, (tape, o) => {
          o.rope(tape, { ...shape, ...device, ...out })
          o.ropeBackward(tape, { ...shape, ...device, ...out })
        })
        const expected = rope(shape, { ...host, kvRows })
        assertClose("q", yield* read(out.q), expected.q)
        assertClose("k", yield* read(out.k), expected.k)
        assertClose("v", yield* read(out.v), expected.v, 0)
        assertClose("dqkv", yield* read(out.dqkv), ropeBackward(shape, host))
      }
    })
  )

  for (const variant of variants) {
    it.effect(`with normed heads, forward and backward, on ${variant}`, () =>
      Effect.gen(function* () {
        const ops = yield* opsOf(variant)
        for (const [i, shape] of shapes.entries()) {
          for (const eps of [1e-6, 0.1]) {
            const { host, device, out, weight } = yield* inputs(shape, 40 + i)
            yield* launch(ops, (tape, o) => {
              const norm = { weight, eps, qkv: device.qkv }
              o.rope(tape, { ...shape, ...device, ...out, norm })
              o.ropeBackward(tape, { ...shape, ...device, ...out, norm })
            })
            const name = `${shape.heads} heads of ${shape.headDim}, eps ${eps}`
            const normed = headNorm(shape, host.qkv, host.weight, eps)
            const expected = rope(shape, { ...host, qkv: normed, kvRows })
            assertClose(`q ${name}`, yield* read(out.q), expected.q)
            assertClose(`k ${name}`, yield* read(out.k), expected.k)
            assertClose(`v ${name}`, yield* read(out.v), expected.v, 0)
            const turned = ropeBackward(shape, host)
            const back = headNormBackward(shape, host.qkv, host.weight, eps, turned)
            assertClose(`dqkv ${name}`, yield* read(out.dqkv), back)
          }
        }
      })
    )
  }

  it.effect("heads of zeros stay finite, and the same work gives the same bits", () =>
    Effect.gen(function* () {
      const shape = { rows: 2, heads: 2, kvHeads: 1, headDim: 8 }
      for (const variant of variants) {
        const ops = yield* opsOf(variant)
        const { device, out, weight } = yield* inputs(shape, 60)
        const zeros = yield* f32("zeros", new Float32Array(device.qkv.length))
        const run = (qkv: typeof zeros) =>
          launch(ops, (tape, o) => {
            const norm = { weight, eps: 1e-6, qkv }
            o.rope(tape, { ...shape, ...device, qkv, ...out, norm })
            o.ropeBackward(tape, { ...shape, ...device, ...out, norm })
          })
        yield* run(zeros)
        assert.isTrue((yield* read(out.q)).every((x) => x === 0))
        assert.isTrue((yield* read(out.dqkv)).every(Number.isFinite))
        yield* run(device.qkv)
        const [q, dqkv] = [yield* read(out.q), yield* read(out.dqkv)]
        yield* run(device.qkv)
        assertSameBits("q", yield* read(out.q), q)
        assertSameBits("dqkv", yield* read(out.dqkv), dqkv)
      }
    })
  )

  it.effect("a norm's weight or kept projections that are too short are refused", () =>
    Effect.gen(function* () {
      const shape = { rows: 2, heads: 2, kvHeads: 1, headDim: 8 }
      const ops = yield* opsOf("software")
      const { device, out } = yield* inputs(shape, 61)
      const short = yield* f32("short", new Float32Array(8))
      const norm = { weight: short, eps: 1e-6, qkv: device.qkv }
      const forward = launch(ops, (tape, o) => o.rope(tape, { ...shape, ...device, ...out, norm }))
      assert.include((yield* Effect.flip(forward)).message, "norm (short) holds 8 of 16")
      const kept = { weight: device.qkv, eps: 1e-6, qkv: short }
      const backward = launch(ops, (tape, o) => o.ropeBackward(tape, { ...shape, ...device, ...out, norm: kept }))
      assert.include((yield* Effect.flip(backward)).message, "qkv (short) holds 8 of 64")
    })
  )

  it.effect("scores depend on the distance of two positions only, and the backward is the inverse", () =>
    Effect.sync(() => {
      const shape: HeadShape = { rows: 2, heads: 1, kvHeads: 1, headDim: 8 }
      const table = ropeTable(64, 8, 10_000)
      const random = seeded(2)
      const [a, b] = [random.floats(8), random.floats(8)]
      const scoreAt = (p: number, r: number): number => {
        const qkv = new Float64Array(2 * 24)
        qkv.set(a, 0)
        qkv.set(b, 24 + 8)
        const x = rope(shape, { qkv, position: [p, r], kvRow: [0, 1], kvRows: 2, table })
        return dot(x.q.slice(0, 8), x.k.slice(8))
      }
      assert.approximately(scoreAt(5, 2), scoreAt(40, 37), 1e-9)
      assert.isAbove(Math.abs(scoreAt(5, 2) - scoreAt(5, 3)), 1e-3)
      const position = [9, 33]
      const qkv = random.floats(2 * 24)
      const turned = rope(shape, { qkv, position, kvRow: [0, 1], kvRows: 2, table })
      const back = ropeBackward(shape, { dq: turned.q, dk: turned.k, dv: turned.v, position, table })
      assertClose("inverse", back, qkv, 1e-6)
      const [weight, dy] = [random.floats(16), random.floats(48)]
      assertClose(
        "gradient of the norm against finite differences",
        headNormBackward(shape, qkv, weight, 1e-3, dy),
        numericGradient(qkv, (x) => dot(dy, headNorm(shape, x, weight, 1e-3))),
        1e-6
      )
    })
  )
})
