/** attention: grouped-query heads, packed sequences, a key-value cache, forward and backward. */
import { assert, layer } from "@effect/vitest"
import { attention, attentionBackward, type HeadShape } from "@srcode/kernels/attention/reference"
import { Effect } from "effect"
import { Gpu, makeOps } from "../src/index.ts"
import { packed } from "./attention-support.ts"
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
  u32
} from "./support.ts"

interface Case {
  readonly lengths: ReadonlyArray<number>
  readonly heads: number
  readonly kvHeads: number
  readonly headDim: number
}

/** Groups of 1, 2 and 7 query heads, head sizes from one quad up, sequences of length 1, several sequences. */
const cases: ReadonlyArray<Case> = [
  { lengths: [1], heads: 1, kvHeads: 1, headDim: 4 },
  { lengths: [1, 1, 1], heads: 2, kvHeads: 1, headDim: 24 },
  { lengths: [7, 1, 12], heads: 4, kvHeads: 2, headDim: 24 },
  { lengths: [19], heads: 3, kvHeads: 3, headDim: 4 },
  { lengths: [5, 6], heads: 7, kvHeads: 1, headDim: 24 },
  { lengths: [33], heads: 14, kvHeads: 2, headDim: 4 },
  { lengths: [9, 3], heads: 2, kvHeads: 2, headDim: 64 },
  { lengths: [6, 2], heads: 4, kvHeads: 2, headDim: 128 }
]

const uploaded = (c: Case, seed: number, scale = 1) =>
  Effect.gen(function* () {
    const random = seeded(seed)
    const p = packed(c.lengths)
    const shape: HeadShape = { rows: p.rows, heads: c.heads, kvHeads: c.kvHeads, headDim: c.headDim }
    const [size, kvSize] = [p.rows * c.heads * c.headDim, p.rows * c.kvHeads * c.headDim]
    const host = {
      q: random.floats(size, scale),
      k: random.floats(kvSize, scale),
      v: random.floats(kvSize),
      dO: random.floats(size),
      kvStart: p.kvStart,
      kvEnd: p.kvEnd
    }
    const device = {
      q: yield* f32("q", host.q),
      k: yield* f32("k", host.k),
      v: yield* f32("v", host.v),
      dO: yield* f32("dO", host.dO),
      kvStart: yield* u32("kvStart", p.kvStart),
      kvEnd: yield* u32("kvEnd", p.kvEnd),
      qEnd: yield* u32("qEnd", p.qEnd)
    }
    return { shape, host, device, size, kvSize }
  })

/** A software driver on a busy machine compiles unrolled texts for minutes, once per machine. */
const compileTime = 600_000

/** "plain": one invocation a head, as on a driver whose subgroups do not fit. */
type AttentionVariant = "packed" | "plain" | "hardware"

const both = (c: Case, variant: AttentionVariant, seed: number, scale?: number) =>
  Effect.gen(function* () {
    const { info } = yield* Gpu
    const ops =
      variant === "plain"
        ? makeOps({ ...info, software: true, subgroupSize: [0, 0] })
        : yield* opsOf(variant === "packed" ? "software" : "hardware")
    const { shape, host, device, size, kvSize } = yield* uploaded(c, seed, scale)
    const [o, stat] = [yield* blank("o", size), yield* blank("stat", shape.rows * shape.heads * 2)]
    const [dq, dk, dv] = [yield* blank("dq", size), yield* blank("dk", kvSize), yield* blank("dv", kvSize)]
    yield* launch(ops, (tape, p) => {
      p.attention(tape, { ...shape, ...device, o, stat, packed: true })
      p.attentionBackward(tape, { ...shape, ...device, o, stat, dq, dk, dv })
    })
    const statistics = yield* read(stat)
    return {
      shape,
      host,
      o: yield* read(o),
      lse: statistics.filter((_, i) => i % 2 === 0),
      dq: yield* read(dq),
      dk: yield* read(dk),
      dv: yield* read(dv)
    }
  })

layer(DeviceLayer)("attention", (it) => {
  for (const variant of ["packed", "plain", "hardware"] as const) {
    it.effect(
      `forward and backward against the oracle on ${variant}`,
      () =>
        Effect.gen(function* () {
          for (const [i, wanted] of cases.entries()) {
            // A software driver's compiler takes many seconds for the unrolled texts of wide heads, which are those of narrow ones
            // with another count.
            if (variant !== "hardware" && wanted.headDim === 64) continue
            const c = variant === "plain" && wanted.headDim === 24 ? { ...wanted, headDim: 12 } : wanted
            const name = JSON.stringify(c)
            const r = yield* both(c, variant, 40 + i)
            const forward = attention(r.shape, r.host)
            const backward = attentionBackward(r.shape, r.host, r.host.dO)
            assertClose(`o ${name}`, r.o, forward.o)
            assertClose(`lse ${name}`, r.lse, forward.lse)
            // A sequence of one token has no gradient to its scores, only rounding; elsewhere the bound is the usual one.
            if (c.lengths.some((n) => n > 1)) {
              assertClose(`dq ${name}`, r.dq, backward.dq)
              assertClose(`dk ${name}`, r.dk, backward.dk)
            } else {
              for (const g of [...r.dq, ...r.dk]) assert.isBelow(Math.abs(g), 1e-5, name)
            }
            assertClose(`dv ${name}`, r.dv, backward.dv)
          }
        }),
      compileTime
    )
  }

  it.effect("peaked scores: the running maximum moves and nothing overflows", () =>
    Effect.gen(function* () {
      // exp multiplies the rounding of scores near ±150 (1e-5), hence the wider bound.
      const r = yield* both({ lengths: [21], heads: 2, kvHeads: 1, headDim: 24 }, "packed", 77, 5.5)
      assertClose("o", r.o, attention(r.shape, r.host).o, 5e-4)
    })
  )

  it.effect("gradients agree with finite differences of the reference", () =>
    Effect.gen(function* () {
      const r = yield* both({ lengths: [2, 1, 3], heads: 2, kvHeads: 1, headDim: 24 }, "packed", 3)
      const loss = (x: Partial<typeof r.host> | { q?: Float64Array; k?: Float64Array; v?: Float64Array }) =>
        dot(r.host.dO, attention(r.shape, { ...r.host, ...x }).o)
      assertClose(
        "dq",
        r.dq,
        numericGradient(r.host.q, (q) => loss({ q }))
      )
      assertClose(
        "dk",
        r.dk,
        numericGradient(r.host.k, (k) => loss({ k }))
      )
      assertClose(
        "dv",
        r.dv,
        numericGradient(r.host.v, (v) => loss({ v }))
      )
    })
  )

  it.effect("a row of a sequence does not see its neighbours in the pack", () =>
    Effect.gen(function* () {
      const alone = yield* both({ lengths: [6], heads: 4, kvHeads: 2, headDim: 24 }, "packed", 8)
      const gpu = yield* Gpu
      const ops = yield* opsOf("software")
      // The same sequence behind another one, whose values are large.
      const p = packed([5, 6])
      const shape: HeadShape = { rows: 11, heads: 4, kvHeads: 2, headDim: 24 }
      const behind = (x: Float32Array, width: number) =>
        Float32Array.from([...new Float32Array(5 * width).fill(50), ...x])
      const device = {
        q: yield* f32("q", behind(alone.host.q, 96)),
        k: yield* f32("k", behind(alone.host.k, 48)),
        v: yield* f32("v", behind(alone.host.v, 48)),
        kvStart: yield* u32("kvStart", p.kvStart),
        kvEnd: yield* u32("kvEnd", p.kvEnd)
      }
      const [o, stat] = [yield* blank("o", 11 * 96), yield* blank("stat", 88)]
      yield* gpu.submit("test", (tape) => ops.attention(tape, { ...shape, ...device, o, stat, packed: true }))
      assertSameBits("o", (yield* read(o)).slice(5 * 96), alone.o)
    })
  )

  it.effect("decoding: rows read the slots of a cache, and an empty range gives zeros", () =>
    Effect.gen(function* () {
      const ops = yield* opsOf("software")
      const random = seeded(12)
      const shape: HeadShape = { rows: 3, heads: 2, kvHeads: 1, headDim: 12 }
      const cacheRows = 30
      const host = {
        q: random.floats(3 * 24),
        k: random.floats(cacheRows * 12),
        v: random.floats(cacheRows * 12),
        kvStart: [10, 20, 0],
        kvEnd: [17, 21, 0]
      }
      const device = {
        q: yield* f32("q", host.q),
        k: yield* f32("k", host.k),
        v: yield* f32("v", host.v),
        kvStart: yield* u32("kvStart", host.kvStart),
        kvEnd: yield* u32("kvEnd", host.kvEnd)
      }
      const [o, stat] = [yield* blank("o", 3 * 24), yield* blank("stat", 12)]
      yield* launch(ops, (tape, p) => p.attention(tape, { ...shape, ...device, o, stat }))
      const out = yield* read(o)
      assertClose("o", out, attention(shape, host).o)
      assert.isTrue(out.slice(2 * 24).every((v) => v === 0))
    })
  )

  it.effect("same inputs give the same bits", () =>
    Effect.gen(function* () {
      for (const variant of ["packed", "plain", "hardware"] as const) {
        const c: Case = { lengths: [17, 9], heads: 4, kvHeads: 2, headDim: variant === "plain" ? 12 : 24 }
        const [a, b] = [yield* both(c, variant, 5), yield* both(c, variant, 5)]
        for (const key of ["o", "lse", "dq", "dk", "dv"] as const) assertSameBits(`${variant} ${key}`, a[key], b[key])
      }
    })
  )

  it.effect("a head size that is no multiple of 4 is refused", () =>
    Effect.gen(function* () {
      const gpu = yield* Gpu
      const ops = yield* opsOf("software")
      const t = yield* blank("t", 64)
      const index = yield* u32("index", [0])
      const error = yield* gpu
        .submit("test", (tape) =>
          ops.attention(tape, {
            rows: 1,
            heads: 1,
            kvHeads: 1,
            headDim: 6,
            q: t,
            k: t,
            v: t,
            kvStart: index,
            kvEnd: index,
            o: t,
            stat: t
          })
        )
        .pipe(Effect.flip)
      assert.include(error.message, "head_dim 6")
    })
  )
})
