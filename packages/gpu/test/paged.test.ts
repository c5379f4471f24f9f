/** Attention over a paged cache: against the oracle on gathered keys, and bits that do not depend on pages or neighbours. */
import { assert, layer } from "@effect/vitest"
import { attention } from "@srcode/kernels/attention/reference"
import { Effect } from "effect"
import { Gpu, pagedPartials, pageSize } from "../src/index.ts"
import {
  asHardware,
  assertClose,
  assertSameBits,
  blank,
  DeviceLayer,
  f32,
  launch,
  opsOf,
  read,
  seeded,
  u32
} from "./support.ts"

interface Case {
  readonly heads: number
  readonly kvHeads: number
  readonly headDim: number
  /** Length of each sequence. */
  readonly lengths: ReadonlyArray<number>
  /** Rows of the batch: (sequence, position). */
  readonly rows: ReadonlyArray<readonly [number, number]>
}

const cases: ReadonlyArray<Case> = [
  { heads: 1, kvHeads: 1, headDim: 4, lengths: [1], rows: [[0, 0]] },
  {
    heads: 4,
    kvHeads: 2,
    headDim: 24,
    lengths: [40, 17, 16, 3],
    rows: [
      [0, 39],
      [1, 16],
      [2, 15],
      [3, 2],
      [0, 0],
      [1, 15],
      [0, 16]
    ]
  },
  {
    heads: 7,
    kvHeads: 1,
    headDim: 24,
    lengths: [70, 129],
    rows: [
      [1, 128],
      [0, 63],
      [0, 64],
      [0, 69]
    ]
  },
  {
    heads: 9,
    kvHeads: 1,
    headDim: 16,
    lengths: [20, 5],
    rows: [
      [0, 10],
      [0, 11],
      [0, 12],
      [1, 4]
    ]
  },
  {
    heads: 12,
    kvHeads: 4,
    headDim: 8,
    lengths: [33, 48, 2],
    rows: [
      [0, 31],
      [0, 32],
      [2, 0],
      [2, 1],
      [1, 47]
    ]
  },
  {
    heads: 4,
    kvHeads: 4,
    headDim: 128,
    lengths: [66],
    rows: [
      [0, 65],
      [0, 7]
    ]
  }
]

const maxPages = 10

/** A cache of pages in a seeded order; page 0 and the ends of pages hold values that must never be read. */
const run = (variant: "software" | "hardware" | "split", c: Case, seed: number, order: number, only?: number) =>
  Effect.gen(function* () {
    const { info } = yield* Gpu
    const ops = yield* opsOf(variant === "software" ? "software" : "hardware")
    const random = seeded(seed)
    const width = c.kvHeads * c.headDim
    const sequences = c.lengths.map((n) => ({ k: random.floats(n * width), v: random.floats(n * width) }))
    const q = random.floats(c.rows.length * c.heads * c.headDim)
    const shuffle = seeded(order)
    const pages = Array.from({ length: c.lengths.length * maxPages }, (_, i) => i + 1)
    for (let i = pages.length - 1; i > 0; i--) {
      const j = shuffle.integer(i + 1)
      ;[pages[i], pages[j]] = [pages[j]!, pages[i]!]
    }
    const size = (pages.length + 1) * pageSize * width
    const [k, v] = [new Float32Array(size).fill(1e6), new Float32Array(size).fill(1e6)]
    const table = new Uint32Array(c.lengths.length * maxPages)
    c.lengths.forEach((n, s) => {
      for (let t = 0; t < n; t++) {
        const at = s * maxPages + Math.floor(t / pageSize)
        table[at] = pages[at]!
        const row = (pages[at]! * pageSize + (t % pageSize)) * width
        k.set(sequences[s]!.k.subarray(t * width, (t + 1) * width), row)
        v.set(sequences[s]!.v.subarray(t * width, (t + 1) * width), row)
      }
    })
    const rows = only === undefined ? c.rows : [c.rows[only]!]
    const each = c.heads * c.headDim
    const own = only === undefined ? q : q.slice(only * each, (only + 1) * each)
    const shape = { rows: rows.length, heads: c.heads, kvHeads: c.kvHeads, headDim: c.headDim }
    const tensors = {
      q: yield* f32("q", own),
      k: yield* f32("k", k),
      v: yield* f32("v", v),
      pageTable: yield* u32("table", table),
      slot: yield* u32(
        "slot",
        rows.map(([s]) => s)
      ),
      position: yield* u32(
        "position",
        rows.map(([, t]) => t)
      ),
      o: yield* blank("o", own.length)
    }
    const elements = pagedPartials(asHardware(info), shape, maxPages)
    if (variant === "split") assert.isAbove(elements, 0)
    const partial = variant === "split" ? yield* blank("partial", elements) : undefined
    yield* launch(ops, (tape, o) => {
      o.attentionPaged(tape, { ...shape, ...tensors, maxPages, partial })
      const merged = tape.entries.some((e) => e._tag === "Dispatch" && e.dispatch.kernel.endsWith("merge"))
      assert.strictEqual(merged, variant === "split")
    })
    return { q, sequences, o: yield* read(tensors.o) }
  }).pipe(Effect.scoped)

layer(DeviceLayer)("paged attention", (it) => {
  for (const variant of ["software", "hardware", "split"] as const) {
    it.effect(
      `equals the oracle on ${variant}; where the pages lie and who stands beside a row changes no bit`,
      () =>
        Effect.gen(function* () {
          for (const [i, c] of cases.entries()) {
            const { o, q, sequences } = yield* run(variant, c, 300 + i, 1)
            const each = c.heads * c.headDim
            for (const [r, [s, t]] of c.rows.entries()) {
              const expected = attention(
                { rows: 1, heads: c.heads, kvHeads: c.kvHeads, headDim: c.headDim },
                { q: q.slice(r * each, (r + 1) * each), ...sequences[s]!, kvStart: [0], kvEnd: [t + 1] }
              )
              const own = o.slice(r * each, (r + 1) * each)
              assertClose(`case ${i} row ${r}`, own, expected.o, 1e-5)
              const alone = yield* run(variant, c, 300 + i, 2 + r, r)
              assertSameBits(`case ${i} row ${r} alone`, alone.o, own)
            }
          }
          assert.isAbove(cases.length, 3)
        }),
      600_000
    )
  }

  it.effect(
    "on hardware a row's bits are the same split or not, decoded or among the many rows of prompts",
    () =>
      Effect.gen(function* () {
        const rows = [0, 1].flatMap((s) => Array.from({ length: 135 }, (_, t) => [s, t] as const))
        const shape = { heads: 4, kvHeads: 2, headDim: 24, lengths: [135, 135] }
        const many = yield* run("hardware", { ...shape, rows }, 400, 1)
        for (const at of [0, 127, 128, 134, 269]) {
          const own = many.o.slice(at * 96, (at + 1) * 96)
          assertSameBits(`row ${at} decoded`, (yield* run("hardware", { ...shape, rows }, 400, 1, at)).o, own)
          assertSameBits(`row ${at} split`, (yield* run("split", { ...shape, rows }, 400, 1, at)).o, own)
        }
      }),
    600_000
  )
})
