/**
 * The matrix-unit attention kernels with emulated matrices: against the oracle, bits alone and in a pack, and gradients far
 * below the range of 16-bit floats.
 */
import { assert, layer } from "@effect/vitest"
import { attention, attentionBackward } from "@srcode/kernels/attention/reference"
import { Effect } from "effect"
import { attentionVariants, Gpu } from "../src/index.ts"
import { pack, results, runPacked, type Shape, sequence } from "./attention-support.ts"
import { EmulatedLayer } from "./matrix-emulation.ts"
import { assertClose, assertSameBits } from "./support.ts"

/**
 * A workgroup has 64 lines (row, head of a group) or keys; steps are of 16 or 32. Heads of 64 take every loop twice or more and are the
 * only ones here, as each size is a compilation of its own; flash-compile.test.ts has the others.
 */
const cases: ReadonlyArray<Shape & { readonly lengths: ReadonlyArray<number> }> = [
  { lengths: [1, 17, 3], heads: 2, kvHeads: 2, headDim: 64 },
  { lengths: [33, 34], heads: 4, kvHeads: 2, headDim: 64 },
  { lengths: [5, 70], heads: 7, kvHeads: 1, headDim: 64 },
  { lengths: [2, 37], heads: 2, kvHeads: 1, headDim: 64 }
]

const run = (s: Shape, lengths: ReadonlyArray<number>, host: Parameters<typeof runPacked>[2]) =>
  Effect.flatMap(Gpu, ({ info }) => runPacked(s, lengths, host, "matrix", info))

layer(EmulatedLayer)("attention on emulated matrix units", (it) => {
  for (const [i, c] of cases.entries()) {
    it.effect(
      `equals the oracle: ${JSON.stringify(c)}`,
      () =>
        Effect.gen(function* () {
          const gpu = yield* Gpu
          const rows = c.lengths.reduce((a, b) => a + b, 0)
          assert.strictEqual(attentionVariants(gpu.info, { ...c, rows })[0], "matrix")
          // Gradients as a mean over many tokens leaves them; half of the rows are another thousand times smaller.
          const host = sequence(c, rows, 700 + i, 1, 1e-6)
          host.dO.forEach((x, at) => {
            if (at % 3 === 0) host.dO[at] = x / 1000
          })
          const r = yield* run(c, c.lengths, host)
          const input = { ...host, kvStart: r.kvStart, kvEnd: r.kvEnd }
          const expected = { ...attention(r.shape, input), ...attentionBackward(r.shape, input, host.dO) }
          // 16-bit operands have 11 bits. The first rows of a sequence show most: their dO V' and delta nearly cancel.
          for (const key of results) assertClose(key, r[key], expected[key], 8e-3)
        }),
      600_000
    )
  }

  it.effect(
    "a sequence's bits are the same alone and in a pack, whatever its neighbours hold",
    () =>
      Effect.gen(function* () {
        const s = { heads: 4, kvHeads: 2, headDim: 64 }
        const own = sequence(s, 21, 9, 1, 1e-5)
        const bad = sequence(s, 6, 10)
        for (const x of Object.values(bad)) x.fill(Number.NaN)
        const alone = yield* run(s, [21], own)
        for (const before of [1, 19]) {
          const all = yield* run(s, [before, 21, 6], pack([sequence(s, before, 11, 3, 1e3), own, bad]))
          for (const key of results) {
            const w = key === "dk" || key === "dv" ? 128 : key === "lse" ? 4 : 256
            assertSameBits(`${key} behind ${before} rows`, all[key].slice(before * w, (before + 21) * w), alone[key])
            if (key !== "lse") assert.isNaN(all[key][(before + 21) * w], `${key}: the bad sequence shows`)
          }
        }
      }),
    600_000
  )

  it.effect(
    "blocks of lines with gradients of very different size",
    () =>
      Effect.gen(function* () {
        const s = { heads: 1, kvHeads: 1, headDim: 64 }
        const host = sequence(s, 70, 12)
        host.dO.forEach((x, at) => {
          const block = Math.floor(at / (16 * 64))
          host.dO[at] = block === 2 ? 0 : x * [1, 1e-12, 0, 1e4, 1e-9][block]!
        })
        const r = yield* run(s, [70], host)
        const input = { ...host, kvStart: r.kvStart, kvEnd: r.kvEnd }
        const expected = attentionBackward(r.shape, input, host.dO)
        for (const key of ["dq", "dk", "dv"] as const) assertClose(key, r[key], expected[key], 8e-3)
        // Each block of rows against its own size, not against the largest.
        for (const block of [0, 1, 3, 4]) {
          const part = (x: ArrayLike<number>) => Array.from(x).slice(block * 1024, (block + 1) * 1024)
          assertClose(`dq of block ${block}`, part(r.dq), part(expected.dq), 8e-3)
        }
        // Keys of the last block see only its own small gradients.
        const tail = (x: ArrayLike<number>) => Array.from(x).slice(64 * 64)
        for (const key of ["dk", "dv"] as const)
          assertClose(`${key} of the last keys`, tail(r[key]), tail(expected[key]), 8e-3)
      }),
    600_000
  )
})
