/** Attention, forward and backward over packed sequences and over a paged cache, and rotary embedding with normed heads. */
import { Gpu, pagedPartials, pageSize } from "@srcode/gpu"
import { attention, attentionBackward, type HeadShape } from "@srcode/kernels/attention/reference"
import { headNorm, headNormBackward, rope, ropeBackward, ropeTable } from "@srcode/kernels/rope/reference"
import { Effect } from "effect"
import { type CheckCase, f32, inputs, result, u32 } from "./harness.ts"

interface Heads {
  readonly heads: number
  readonly kvHeads: number
  readonly headDim: number
}

/** Key ranges of packed causal sequences. */
const packed = (lengths: ReadonlyArray<number>) => {
  const rows = lengths.flatMap((length, s) => {
    const start = lengths.slice(0, s).reduce((a, b) => a + b, 0)
    return Array.from({ length }, (_, i) => ({ start, end: start + i + 1, last: start + length, position: i }))
  })
  return {
    rows: rows.length,
    kvStart: rows.map((r) => r.start),
    kvEnd: rows.map((r) => r.end),
    qEnd: rows.map((r) => r.last),
    position: rows.map((r) => r.position)
  }
}

const describe = (h: Heads, lengths: ReadonlyArray<number>): string =>
  `${h.heads}/${h.kvHeads} heads of ${h.headDim}, sequences of ${lengths.join(", ")}`

const ofPacked = (heads: Heads, lengths: ReadonlyArray<number>, seed: number): CheckCase => ({
  name: `attention ${describe(heads, lengths)}`,
  prepare: Effect.gen(function* () {
    const random = inputs(seed)
    const p = packed(lengths)
    const shape: HeadShape = { rows: p.rows, ...heads }
    const [size, kvSize] = [p.rows * heads.heads * heads.headDim, p.rows * heads.kvHeads * heads.headDim]
    const host = {
      ...{ q: random.floats(size), k: random.floats(kvSize), v: random.floats(kvSize) },
      ...{ kvStart: p.kvStart, kvEnd: p.kvEnd }
    }
    const dO = random.floats(size)
    const forward = attention(shape, host)
    const backward = attentionBackward(shape, host, dO)
    const device = {
      ...{ q: yield* f32(host.q), k: yield* f32(host.k), v: yield* f32(host.v), dO: yield* f32(dO) },
      ...{ kvStart: yield* u32(p.kvStart), kvEnd: yield* u32(p.kvEnd), qEnd: yield* u32(p.qEnd) },
      ...{ o: yield* result(size), stat: yield* result(2 * p.rows * heads.heads) },
      ...{ dq: yield* result(size), dk: yield* result(kvSize), dv: yield* result(kvSize) }
    }
    return {
      record: (tape, ops) => {
        ops.attention(tape, { ...shape, ...device, packed: true })
        ops.attentionBackward(tape, { ...shape, ...device })
      },
      outputs: [
        { name: "o", tensor: device.o, expected: forward.o },
        { name: "dq", tensor: device.dq, expected: backward.dq },
        { name: "dk", tensor: device.dk, expected: backward.dk },
        { name: "dv", tensor: device.dv, expected: backward.dv }
      ]
    }
  })
})

/** Rows at their sequences' ends and within, over pages in shuffled order. */
const ofPaged = (
  heads: Heads,
  lengths: ReadonlyArray<number>,
  perSequence: number,
  seed: number,
  split = false
): CheckCase => ({
  name: `paged attention ${describe(heads, lengths)}${split ? ", split where the device has use for it" : ""}`,
  prepare: Effect.gen(function* () {
    const gpu = yield* Gpu
    const random = inputs(seed)
    const width = heads.kvHeads * heads.headDim
    const maxPages = Math.max(...lengths.map((n) => Math.ceil(n / pageSize)))
    const total = lengths.length * maxPages
    // Page 0 is nobody's; the others are dealt out backwards.
    const pageOf = (s: number, page: number): number => total - (s * maxPages + page)
    const rows = lengths.flatMap((length, s) =>
      Array.from({ length: Math.min(perSequence, length) }, (_, i) => ({
        s,
        position: length - Math.min(perSequence, length) + i
      }))
    )
    const [keys, values] = lengths
      .map((length) => [random.floats(length * width), random.floats(length * width)] as const)
      .reduce<[Array<Float32Array>, Array<Float32Array>]>(
        ([ks, vs], [k, v]) => [
          [...ks, k],
          [...vs, v]
        ],
        [[], []]
      )
    const store = (all: ReadonlyArray<Float32Array>): Float32Array<ArrayBuffer> => {
      const out = new Float32Array((total + 1) * pageSize * width).fill(1e3)
      all.forEach((own, s) => {
        for (let t = 0; t * width < own.length; t++) {
          const at = (pageOf(s, Math.floor(t / pageSize)) * pageSize + (t % pageSize)) * width
          out.set(own.subarray(t * width, (t + 1) * width), at)
        }
      })
      return out
    }
    const shape: HeadShape = { rows: rows.length, ...heads }
    const q = random.floats(rows.length * heads.heads * heads.headDim)
    const starts = lengths.map((_, s) => lengths.slice(0, s).reduce((a, b) => a + b, 0))
    const flat = (all: ReadonlyArray<Float32Array>) => Float32Array.from(all.flatMap((own) => [...own]))
    const { o } = attention(shape, {
      q,
      k: flat(keys),
      v: flat(values),
      kvStart: rows.map(({ s }) => starts[s] ?? 0),
      kvEnd: rows.map(({ position, s }) => (starts[s] ?? 0) + position + 1)
    })
    const pageTable = yield* gpu.alloc("check.pages", "u32", lengths.length * maxPages)
    yield* gpu.write(
      pageTable,
      Uint32Array.from({ length: lengths.length * maxPages }, (_, i) => pageOf(Math.floor(i / maxPages), i % maxPages))
    )
    const device = {
      ...{ q: yield* f32(q), k: yield* f32(store(keys)), v: yield* f32(store(values)), o: yield* result(q.length) },
      slot: yield* u32(rows.map(({ s }) => s)),
      position: yield* u32(rows.map(({ position }) => position))
    }
    const parts = split ? pagedPartials(gpu.info, shape, maxPages) : 0
    const partial = parts > 0 ? yield* result(parts) : undefined
    return {
      record: (tape, ops) => ops.attentionPaged(tape, { ...shape, ...device, pageTable, maxPages, partial }),
      outputs: [{ name: "o", tensor: device.o, expected: o }]
    }
  })
})

const rotary = (heads: Heads, normed: boolean, seed: number): CheckCase => ({
  name: `rope ${describe(heads, [9])}${normed ? " with normed heads" : ""}`,
  prepare: Effect.gen(function* () {
    const random = inputs(seed)
    const rows = 9
    const shape: HeadShape = { rows, ...heads }
    const table = ropeTable(32, heads.headDim, 10_000)
    const position = random.integers(rows, 32)
    const kvRow = Array.from({ length: rows }, (_, r) => rows - 1 - r)
    const [wide, narrow] = [rows * heads.heads * heads.headDim, rows * heads.kvHeads * heads.headDim]
    const eps = 1e-6
    const weight = random.floats(2 * heads.headDim).map((x) => 1 + 0.1 * x)
    const qkv = random.floats(wide + 2 * narrow)
    const source = normed ? headNorm(shape, qkv, weight, eps) : qkv
    const forward = rope(shape, { qkv: source, position, kvRow, table, kvRows: rows })
    const [dq, dk, dv] = [random.floats(wide), random.floats(narrow), random.floats(narrow)]
    const turned = ropeBackward(shape, { dq, dk, dv, position, table })
    const expected = normed ? headNormBackward(shape, qkv, weight, eps, turned) : turned
    const device = {
      ...{ qkv: yield* f32(qkv), position: yield* u32(position), kvRow: yield* u32(kvRow), table: yield* f32(table) },
      ...{ q: yield* result(wide), k: yield* result(narrow), v: yield* result(narrow) },
      ...{ dq: yield* f32(dq), dk: yield* f32(dk), dv: yield* f32(dv), dqkv: yield* result(wide + 2 * narrow) }
    }
    const norm = normed ? { weight: yield* f32(weight), eps } : undefined
    return {
      record: (tape, ops) => {
        ops.rope(tape, { ...shape, ...device, norm })
        ops.ropeBackward(tape, { ...shape, ...device, norm: norm && { ...norm, qkv: device.qkv } })
      },
      outputs: [
        { name: "q", tensor: device.q, expected: forward.q },
        { name: "k", tensor: device.k, expected: forward.k },
        { name: "v", tensor: device.v, expected: forward.v },
        { name: "dqkv", tensor: device.dqkv, expected }
      ]
    }
  })
})

/** `large` adds the head shapes and lengths of real models. */
export const attentionCases = (large: boolean): ReadonlyArray<CheckCase> => {
  const small: ReadonlyArray<readonly [Heads, ReadonlyArray<number>]> = [
    [{ heads: 2, kvHeads: 1, headDim: 24 }, [2, 1, 3]],
    [{ heads: 4, kvHeads: 2, headDim: 24 }, [7, 1, 12]],
    [{ heads: 7, kvHeads: 1, headDim: 16 }, [5, 6]],
    [{ heads: 3, kvHeads: 3, headDim: 4 }, [19]]
  ]
  const real: ReadonlyArray<readonly [Heads, ReadonlyArray<number>]> = [
    [{ heads: 14, kvHeads: 2, headDim: 64 }, [65, 1, 130]],
    [{ heads: 28, kvHeads: 4, headDim: 128 }, [33, 200]],
    [{ heads: 8, kvHeads: 8, headDim: 128 }, [129]],
    [{ heads: 4, kvHeads: 2, headDim: 64 }, [513]],
    [{ heads: 6, kvHeads: 2, headDim: 32 }, [70, 3, 17]],
    [{ heads: 2, kvHeads: 1, headDim: 96 }, [50, 49]]
  ]
  const list = large ? [...small, ...real] : small
  return [
    ...list.map(([heads, lengths], i) => ofPacked(heads, lengths, 2000 + i)),
    ...list.map(([heads, lengths], i) => ofPaged(heads, lengths, 3, 2100 + i)),
    ...(large
      ? [false, true].map((split) =>
          ofPaged({ heads: 28, kvHeads: 4, headDim: 128 }, [1000, 17, 300, 64], 1, 2150, split)
        )
      : []),
    ...[false, true].flatMap((normed) => [
      rotary({ heads: 4, kvHeads: 2, headDim: 24 }, normed, 2200),
      rotary({ heads: 4, kvHeads: 1, headDim: 128 }, normed, 2201)
    ])
  ]
}
