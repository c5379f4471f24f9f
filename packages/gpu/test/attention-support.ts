/** What the attention tests share: packed sequences and one forward and backward of a named variant. */
import { Effect } from "effect"
import { type AttentionVariant, Gpu, makeAttention, makeOps } from "../src/index.ts"
import { asHardware, blank, f32, read, seeded, u32 } from "./support.ts"

/** Key ranges of packed causal sequences of the given lengths. */
export const packed = (lengths: ReadonlyArray<number>) => {
  const kvStart: Array<number> = []
  const kvEnd: Array<number> = []
  const qEnd: Array<number> = []
  const position: Array<number> = []
  for (const length of lengths) {
    const start = kvStart.length
    for (let i = 0; i < length; i++) {
      kvStart.push(start)
      kvEnd.push(start + i + 1)
      qEnd.push(start + length)
      position.push(i)
    }
  }
  return { rows: kvStart.length, kvStart, kvEnd, qEnd, position }
}

export interface Shape {
  readonly heads: number
  readonly kvHeads: number
  readonly headDim: number
}

export interface Rows {
  readonly q: Float32Array<ArrayBuffer>
  readonly k: Float32Array<ArrayBuffer>
  readonly v: Float32Array<ArrayBuffer>
  readonly dO: Float32Array<ArrayBuffer>
}

/** Seeded rows of one sequence; `scale` is that of queries and keys, `gradient` that of dO. */
export const sequence = (s: Shape, length: number, seed: number, scale = 1, gradient = 1): Rows => {
  const random = seeded(seed)
  const [size, kvSize] = [length * s.heads * s.headDim, length * s.kvHeads * s.headDim]
  return {
    q: random.floats(size, scale),
    k: random.floats(kvSize, scale),
    v: random.floats(kvSize),
    dO: random.floats(size, gradient)
  }
}

const joined = (parts: ReadonlyArray<Float32Array>): Float32Array<ArrayBuffer> =>
  Float32Array.from(parts.flatMap((p) => [...p]))

export const pack = (rows: ReadonlyArray<Rows>): Rows => ({
  q: joined(rows.map((r) => r.q)),
  k: joined(rows.map((r) => r.k)),
  v: joined(rows.map((r) => r.v)),
  dO: joined(rows.map((r) => r.dO))
})

/** Forward and backward of the variant over sequences of these lengths; `narrow` changes what the device is said to have. */
export const runPacked = (
  s: Shape,
  lengths: ReadonlyArray<number>,
  host: Rows,
  variant: AttentionVariant | undefined,
  narrow: Parameters<typeof makeOps>[0] | undefined = undefined
) =>
  Effect.gen(function* () {
    const gpu = yield* Gpu
    const info = narrow ?? asHardware(gpu.info)
    const ops = variant === undefined ? makeOps(info) : makeAttention(info, variant)
    const p = packed(lengths)
    const shape = { ...s, rows: p.rows }
    const device = {
      q: yield* f32("q", host.q),
      k: yield* f32("k", host.k),
      v: yield* f32("v", host.v),
      dO: yield* f32("dO", host.dO),
      kvStart: yield* u32("kvStart", p.kvStart),
      kvEnd: yield* u32("kvEnd", p.kvEnd),
      qEnd: yield* u32("qEnd", p.qEnd)
    }
    const [o, stat] = [yield* blank("o", host.q.length), yield* blank("stat", p.rows * s.heads * 2)]
    const [dq, dk] = [yield* blank("dq", host.q.length), yield* blank("dk", host.k.length)]
    const dv = yield* blank("dv", host.k.length)
    yield* gpu.submit("test", (tape) => {
      ops.attention(tape, { ...shape, ...device, o, stat, packed: true })
      ops.attentionBackward(tape, { ...shape, ...device, o, stat, dq, dk, dv })
    })
    const statistics = yield* read(stat)
    return {
      shape,
      kvStart: p.kvStart,
      kvEnd: p.kvEnd,
      o: yield* read(o),
      lse: statistics.filter((_, i) => i % 2 === 0),
      dq: yield* read(dq),
      dk: yield* read(dk),
      dv: yield* read(dv)
    }
  }).pipe(Effect.scoped)

export const results = ["o", "lse", "dq", "dk", "dv"] as const
