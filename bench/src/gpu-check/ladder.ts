/**
 * Times of every rung that the products and attention can take here, at the shapes of a real model: what the kernels'
 * READMEs want to know.
 */
import {
  allocMatrix,
  type Ceilings,
  type Cost,
  ceilingOf,
  costOf,
  Gpu,
  type Ops,
  pagedPartials,
  pageSize,
  type Storage,
  type Tape,
  type Tensor
} from "@srcode/gpu"
import { Clock, Effect } from "effect"
import { hasMatrixUnits, measureCeilings } from "../profile/ceilings.ts"
import { quickUniforms } from "../profile/randomModel.ts"
import { guarded, Report } from "./Report.ts"
import { type Choice, choicesOf, eachChoice, waysOf } from "./verify/harness.ts"

const round = (x: number): number => Number(x.toPrecision(4))

/** Runs that a rung is given at least, and seconds after which no further one is begun. */
const [fewest, most, patience] = [2, 15, 0.12]

interface Rung {
  readonly name: string
  readonly shape: Readonly<Record<string, unknown>>
  readonly record: (tape: Tape, ops: Ops) => void
  readonly keysPerQuery?: number
}

/** Times one recording under every set of capabilities that leads to other kernels. */
const climb = Effect.fnUntraced(function* (rung: Rung, ceilings: Ceilings, list: string) {
  const gpu = yield* Gpu
  const report = yield* Report
  // Variants for drivers that compute on the processor crawl on hardware, and say nothing about it.
  const ways = waysOf(gpu.info, report.size === "full").filter(({ info }) => info.software === gpu.info.software)
  const { choices, refused } = yield* choicesOf(rung.record, ways)
  for (const { problem, way } of refused)
    if (way.optional !== true) yield* report.add("problems", { part: `${rung.name} (${way.name})`, problem })
  const use = Effect.fnUntraced(function* ({ dispatches, kernels, name: variant, ops }: Choice) {
    const hints = rung.keysPerQuery === undefined ? {} : { keysPerQuery: rung.keysPerQuery }
    const costs = dispatches.map((d): Cost => costOf(d, hints))
    const sum = (of: (cost: Cost) => number): number => costs.reduce((total, cost) => total + of(cost), 0)
    const least = dispatches.reduce((total, d, i) => {
      const cost = costs[i]
      const ceiling = ceilingOf(d.kernel, ceilings)
      return cost === undefined
        ? total
        : total + Math.max(ceiling > 0 ? cost.flops / ceiling : 0, cost.bytes / ceilings.bytesPerSecond)
    }, 0)
    yield* guarded(
      `${rung.name} (${variant})`,
      Effect.gen(function* () {
        const seconds: Array<number> = []
        let spent = 0
        for (let i = 0; i <= most && (i <= fewest || spent < patience); i++) {
          const started = yield* Clock.currentTimeNanos
          const times = yield* gpu.profile(rung.name, (own) => rung.record(own, ops))
          const wall = Number((yield* Clock.currentTimeNanos) - started) / 1e9
          const stamped = times.reduce((total, { nanoseconds }) => total + nanoseconds, 0) / 1e9
          const own = stamped > 0 ? stamped : wall
          // The first run compiles.
          if (i > 0) seconds.push(own)
          spent += i > 0 ? own : 0
        }
        seconds.sort((a, b) => a - b)
        const median = seconds[Math.floor(seconds.length / 2)] ?? 0
        yield* report.add(list, {
          name: rung.name,
          variant,
          ...rung.shape,
          kernels,
          constants: dispatches.at(-1)?.constants ?? {},
          seconds: round(median),
          min: round(seconds[0] ?? 0),
          gflops: round(sum((c) => c.flops) / median / 1e9),
          gigabytesPerSecond: round(sum((c) => c.bytes) / median / 1e9),
          ceilingShare: round(least / median)
        })
      })
    )
  })
  yield* eachChoice(rung.record, choices, use)
})

/** Random words in a buffer of any size: halves, bytes and nibbles of them are as random; f32 stay small. */
const noise = Effect.fnUntraced(function* (tensor: Tensor, from: Tensor) {
  const gpu = yield* Gpu
  yield* gpu.submit("noise", (tape) => {
    for (let at = 0; at < tensor.length; at += from.length) {
      const length = Math.min(from.length, tensor.length - at)
      tape.copy({ ...from, length }, { ...tensor, offset: tensor.offset + at, length }, length)
    }
  })
})

/** Numbers within ±1 as f32, and words whose two halves are numbers within ±1 as f16. */
const pools = Effect.gen(function* () {
  const gpu = yield* Gpu
  const next = quickUniforms(3)
  const length = 1 << 20
  const floats = yield* gpu.alloc("noise", "f32", length)
  yield* gpu.write(
    floats,
    Float32Array.from({ length }, () => 2 * next() - 1)
  )
  const words = yield* gpu.alloc("noise", "u32", length)
  // Exponents 8 to 14 of f16 lie below 1.
  const half = () =>
    ((next() < 0.5 ? 0x8000 : 0) | (Math.floor(8 + 7 * next()) << 10) | Math.floor(1024 * next())) >>> 0
  yield* gpu.write(
    words,
    Uint32Array.from({ length }, () => (half() | (half() << 16)) >>> 0)
  )
  return { floats, words }
})

interface Weight {
  readonly name: string
  readonly out: number
  readonly inner: number
}

/** The products of one layer of a 7B model. */
const [qkv, o, gateUp, down]: readonly [Weight, Weight, Weight, Weight] = [
  { name: "qkv", out: 4608, inner: 3584 },
  { name: "o", out: 3584, inner: 3584 },
  { name: "gate_up", out: 37_888, inner: 3584 },
  { name: "down", out: 3584, inner: 18_944 }
]

/** A weight in a storage, and the rows to time it with. */
interface Climb {
  readonly weight: Weight
  readonly storage: Storage
  readonly rows: ReadonlyArray<number>
}

/** In the order of what would be missed most: training and decoding with 16-bit weights, then other storages, then other shapes. */
const climbs = (full: boolean, matrix: boolean): ReadonlyArray<Climb> => {
  // Tiles are for matrix units.
  const sixteen: ReadonlyArray<Storage> = matrix ? ["f16", "f16_tiles"] : ["f16"]
  if (!full) {
    const weight = { name: "tiny", out: 48, inner: 64 }
    return (["f32", ...sixteen] as const).map((storage) => ({ weight, storage, rows: [3, 16] }))
  }
  const all = (weight: Weight, storages: ReadonlyArray<Storage>, rows: ReadonlyArray<number>) =>
    storages.map((storage): Climb => ({ weight, storage, rows }))
  return [
    ...all(gateUp, sixteen, [4096]),
    ...all(gateUp, sixteen, [1, 64]),
    ...all(down, sixteen, [4096, 1]),
    ...all(gateUp, ["f32"], [4096]),
    ...all(gateUp, ["int8", "int4"], [1, 64, 4096]),
    ...all(qkv, sixteen, [4096, 1]),
    ...all(o, sixteen, [4096, 1]),
    ...all(down, ["int8", "int4"], [1]),
    ...all(gateUp, sixteen, [16])
  ]
}

/** Few rows come from engines, which declare how many they will ever be. */
const bound = (m: number) => (m <= 64 ? { capacity: m } : {})

const products = Effect.fnUntraced(function* (ceilings: Ceilings) {
  const gpu = yield* Gpu
  const { size } = yield* Report
  const full = size === "full"
  const one = Effect.fnUntraced(function* ({ rows, storage, weight: w }: Climb) {
    const { floats, words } = yield* pools
    const b = yield* allocMatrix("b", storage, w.out, w.inner)
    for (const part of b.parts) {
      yield* noise(part.data, part.storage === "f32" ? floats : words)
      if ("scales" in part) yield* noise(part.scales, part.storage === "int8" ? floats : words)
    }
    const most = Math.max(...rows)
    const a = yield* gpu.alloc("a", "f32", most * Math.max(w.inner, w.out))
    yield* noise(a, floats)
    const out = yield* gpu.alloc("out", "f32", most * Math.max(w.inner, w.out))
    for (const m of rows) {
      const shape = { storage, m, n: w.out, k: w.inner }
      const nt: Rung = {
        name: `${w.name} NT`,
        shape: { layout: "NT", ...shape },
        record: (tape, ops) => ops.matmulNT(tape, { a, b, out, m, n: w.out, k: w.inner, ...bound(m) })
      }
      yield* climb(nt, ceilings, "matmul")
      // Gradients come in many rows.
      if (m < 4096 && full) continue
      const nn: Rung = {
        name: `${w.name} NN`,
        shape: { layout: "NN", ...shape, n: w.inner, k: w.out },
        record: (tape, ops) => ops.matmulNN(tape, { a, b, out, m, n: w.inner, k: w.out, ...bound(m) })
      }
      yield* climb(nn, ceilings, "matmul")
    }
  }, Effect.scoped)
  for (const own of climbs(full, hasMatrixUnits(gpu.info)))
    yield* guarded(`${own.weight.name} ${own.storage}`, one(own))
})

const attention = Effect.fnUntraced(function* (ceilings: Ceilings) {
  const gpu = yield* Gpu
  const { size } = yield* Report
  const full = size === "full"
  const heads = full ? { heads: 28, kvHeads: 4, headDim: 128 } : { heads: 4, kvHeads: 2, headDim: 8 }
  const packed = Effect.fnUntraced(function* (sequences: number, length: number) {
    const { floats } = yield* pools
    const rows = sequences * length
    const shape = { rows, ...heads }
    const tensor = Effect.fnUntraced(function* (elements: number) {
      const made = yield* gpu.alloc("attention", "f32", elements)
      yield* noise(made, floats)
      return made
    })
    const index = Effect.fnUntraced(function* (of: (row: number) => number) {
      const made = yield* gpu.alloc("index", "u32", rows)
      yield* gpu.write(
        made,
        Uint32Array.from({ length: rows }, (_, r) => of(r))
      )
      return made
    })
    const [wide, narrow] = [rows * heads.heads * heads.headDim, rows * heads.kvHeads * heads.headDim]
    const t = {
      ...{ q: yield* tensor(wide), k: yield* tensor(narrow), v: yield* tensor(narrow), dO: yield* tensor(wide) },
      ...{ o: yield* tensor(wide), stat: yield* tensor(2 * rows * heads.heads) },
      ...{ dq: yield* tensor(wide), dk: yield* tensor(narrow), dv: yield* tensor(narrow) },
      kvStart: yield* index((r) => r - (r % length)),
      kvEnd: yield* index((r) => r + 1),
      qEnd: yield* index((r) => r - (r % length) + length)
    }
    const common = { shape: { ...heads, sequences, length }, keysPerQuery: (length + 1) / 2 }
    const forward: Rung = {
      ...common,
      name: "attention",
      record: (tape, ops) => ops.attention(tape, { ...shape, ...t, packed: true })
    }
    const backward: Rung = {
      ...common,
      name: "attention backward",
      record: (tape, ops) => ops.attentionBackward(tape, { ...shape, ...t })
    }
    yield* climb(forward, ceilings, "attention")
    yield* climb(backward, ceilings, "attention")
  }, Effect.scoped)
  const paged = Effect.fnUntraced(function* (sequences: number, length: number) {
    const { floats } = yield* pools
    const maxPages = Math.ceil(length / pageSize)
    const width = heads.kvHeads * heads.headDim
    const cache = () => gpu.alloc("cache", "f32", (sequences * maxPages + 1) * pageSize * width)
    const [k, v] = [yield* cache(), yield* cache()]
    yield* noise(k, floats)
    yield* noise(v, floats)
    const q = yield* gpu.alloc("q", "f32", sequences * heads.heads * heads.headDim)
    yield* noise(q, floats)
    const o = yield* gpu.alloc("o", "f32", q.length)
    const pageTable = yield* gpu.alloc("pages", "u32", sequences * maxPages)
    yield* gpu.write(
      pageTable,
      Uint32Array.from({ length: pageTable.length }, (_, i) => i + 1)
    )
    const slot = yield* gpu.alloc("slot", "u32", sequences)
    yield* gpu.write(
      slot,
      Uint32Array.from({ length: sequences }, (_, i) => i)
    )
    const position = yield* gpu.alloc("position", "u32", sequences)
    yield* gpu.write(position, new Uint32Array(sequences).fill(length - 1))
    const rung: Rung = {
      name: "paged attention",
      shape: { ...heads, sequences, length },
      keysPerQuery: length,
      record: (tape, ops) =>
        ops.attentionPaged(tape, { rows: sequences, ...heads, q, k, v, pageTable, maxPages, slot, position, o })
    }
    yield* climb(rung, ceilings, "attention")
    const parts = pagedPartials(gpu.info, { rows: sequences, ...heads }, maxPages)
    if (parts === 0) return
    const partial = yield* gpu.alloc("partial", "f32", parts)
    const split: Rung = {
      ...rung,
      name: "paged attention, split",
      record: (tape, ops) =>
        ops.attentionPaged(tape, {
          rows: sequences,
          ...heads,
          q,
          k,
          v,
          pageTable,
          maxPages,
          slot,
          position,
          o,
          partial
        })
    }
    yield* climb(split, ceilings, "attention")
  }, Effect.scoped)
  const lengths = full
    ? ([
        [2, 2048],
        [1, 512],
        [8, 512]
      ] as const)
    : ([[2, 20]] as const)
  for (const [sequences, length] of lengths) yield* guarded("attention", packed(sequences, length))
  const caches = full
    ? ([
        [1, 300],
        [1, 4000],
        [64, 300],
        [64, 2000]
      ] as const)
    : ([[3, 40]] as const)
  for (const [sequences, length] of caches) yield* guarded("paged attention", paged(sequences, length))
})

export const productLadder = Effect.flatMap(measureCeilings(), products)
export const attentionLadder = Effect.flatMap(measureCeilings(), attention)
