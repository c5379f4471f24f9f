/** The scalar tiles of attention: against the oracle and the simpler rung, past every edge of a tile, alone and in a pack. */
import { assert, layer } from "@effect/vitest"
import { attention, attentionBackward } from "@srcode/kernels/attention/reference"
import { Effect } from "effect"
import { attentionVariants, Gpu, type GpuError, makeAttention } from "../src/index.ts"
import { pack, results, runPacked, type Shape, sequence } from "./attention-support.ts"
import { asHardware, assertClose, assertSameBits, DeviceLayer } from "./support.ts"

/** Tiles have 32 lines (row, head of a group) and 32 keys; heads are staged 4 or 8 quads at a time. */
const cases: ReadonlyArray<Shape & { readonly lengths: ReadonlyArray<number> }> = [
  { lengths: [1], heads: 1, kvHeads: 1, headDim: 4 },
  { lengths: [33], heads: 2, kvHeads: 2, headDim: 8 },
  { lengths: [31, 1, 34, 7], heads: 2, kvHeads: 1, headDim: 24 },
  { lengths: [5, 66, 3], heads: 7, kvHeads: 1, headDim: 16 },
  { lengths: [40, 25], heads: 14, kvHeads: 2, headDim: 36 },
  { lengths: [97], heads: 3, kvHeads: 3, headDim: 64 },
  { lengths: [9, 35], heads: 4, kvHeads: 2, headDim: 128 },
  { lengths: [34, 2], heads: 2, kvHeads: 1, headDim: 68 }
]

layer(DeviceLayer)("attention in scalar tiles", (it) => {
  it.effect(
    "forward and backward equal the oracle and the workgroup rung",
    () =>
      Effect.gen(function* () {
        for (const [i, c] of cases.entries()) {
          const name = JSON.stringify(c)
          const rows = c.lengths.reduce((a, b) => a + b, 0)
          const host = sequence(c, rows, 500 + i)
          const r = yield* runPacked(c, c.lengths, host, "flash")
          const input = { ...host, kvStart: r.kvStart, kvEnd: r.kvEnd }
          const expected = { ...attention(r.shape, input), ...attentionBackward(r.shape, input, host.dO) }
          for (const key of results) {
            // A sequence of one token has no gradient to its scores, only rounding.
            if (rows === 1 && (key === "dq" || key === "dk"))
              assert.isTrue(
                r[key].every((g) => Math.abs(g) < 1e-5),
                name
              )
            else assertClose(`${key} ${name}`, r[key], expected[key])
          }
          const simple = yield* runPacked(c, c.lengths, host, "workgroup")
          for (const key of results)
            if (rows > 1) assertClose(`${key} against the workgroup rung ${name}`, r[key], simple[key], 1e-5)
        }
        assert.isAbove(cases.length, 7)
      }),
    600_000
  )

  it.effect(
    "a sequence's bits are the same alone and anywhere in a pack, and what is not finite stays in its own sequence",
    () =>
      Effect.gen(function* () {
        for (const s of [
          { heads: 7, kvHeads: 1, headDim: 24 },
          { heads: 4, kvHeads: 2, headDim: 64 }
        ]) {
          const own = sequence(s, 37, 9)
          const bad = sequence(s, 20, 10)
          for (const x of Object.values(bad)) x.fill(Number.NaN)
          bad.v.fill(Number.POSITIVE_INFINITY)
          const alone = yield* runPacked(s, [37], own, "flash")
          for (const before of [1, 13, 32, 45]) {
            const host = pack([sequence(s, before, 11, 40), own, bad])
            const all = yield* runPacked(s, [before, 37, 20], host, "flash")
            for (const key of results) {
              const width = { o: s.heads * s.headDim, dq: s.heads * s.headDim, lse: s.heads }
              const w = key === "dk" || key === "dv" ? s.kvHeads * s.headDim : width[key]
              assertSameBits(`${key} behind ${before} rows`, all[key].slice(before * w, (before + 37) * w), alone[key])
              if (key !== "lse") assert.isNaN(all[key][(before + 37) * w], `${key}: the bad sequence shows`)
            }
          }
        }
      }),
    600_000
  )

  it.effect("peaked scores: the running maximum moves over many blocks and nothing overflows", () =>
    Effect.gen(function* () {
      const s = { heads: 2, kvHeads: 1, headDim: 24 }
      const host = sequence(s, 130, 78, 5.5)
      const r = yield* runPacked(s, [130], host, "flash")
      const input = { ...host, kvStart: r.kvStart, kvEnd: r.kvEnd }
      assertClose("o", r.o, attention(r.shape, input).o, 5e-4)
      assertClose("dq", r.dq, attentionBackward(r.shape, input, host.dO).dq, 5e-3)
    })
  )

  it.effect("hardware takes the tiles unasked; what a device lacks is refused by name", () =>
    Effect.gen(function* () {
      const gpu = yield* Gpu
      const shape = { rows: 3, heads: 1, kvHeads: 1, headDim: 8 }
      assert.strictEqual(attentionVariants(asHardware(gpu.info), shape)[0], "flash")
      const weak = { ...asHardware(gpu.info), limits: { ...gpu.info.limits, maxComputeInvocationsPerWorkgroup: 64 } }
      assert.deepStrictEqual(attentionVariants(weak, shape), ["workgroup", "invocation"])
      const host = sequence(shape, 3, 1)
      const error: GpuError = yield* runPacked(shape, [3], host, "flash", weak).pipe(Effect.flip)
      assert.include(error.message, "the variant flash is not for head_dim 8 on this device")
      assert.isFunction(makeAttention(weak).attention)
    })
  )
})
