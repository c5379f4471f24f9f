/** Matrix products in every layout and storage, with everything that rides along; large ones by some of their rows. */
import {
  allocMatrix,
  Gpu,
  type MatmulArgs,
  packRows,
  type Storage,
  storageLayout,
  strideOf,
  writeRows
} from "@srcode/gpu"
import { blockDiagonal } from "@srcode/kernels/lora/reference"
import { type Layout, matmul } from "@srcode/kernels/matmul/reference"
import { rmsNorm } from "@srcode/kernels/rms_norm/reference"
import { swiglu } from "@srcode/kernels/swiglu/reference"
import { unpackF16, unpackF16Tiles, unpackInt4, unpackInt8 } from "@srcode/kernels/weight/reference"
import { Effect } from "effect"
import { type CheckCase, f32, inputs, result } from "./harness.ts"

interface Product {
  readonly layout: Layout
  readonly m: number
  readonly n: number
  readonly k: number
  readonly storage?: Storage
  readonly alpha?: number
  readonly bias?: boolean
  readonly residual?: boolean
  readonly accumulate?: boolean
  readonly extra?: number
  /** Rows that are declared as the most there will be. */
  readonly capacity?: number
  /** Check so many rows only. */
  readonly rows?: number
}

/** What packed rows stand for. */
const meaning = (
  storage: Storage,
  values: Float32Array<ArrayBuffer>,
  rows: number,
  cols: number
): ArrayLike<number> => {
  if (storage === "f32") return values
  // 16-bit floats mean the same in whatever order they lie.
  const plain = storage === "int8" || storage === "int4" ? storage : "f16"
  const { data, scales } = packRows(plain, values, rows, cols)
  const stride = strideOf(plain, cols)
  if (plain === "int8") return unpackInt8(data, new Float32Array(scales.buffer), rows, cols, stride)
  if (plain === "int4") return unpackInt4(data, scales, rows, cols, stride)
  return unpackF16(data, rows, cols, stride)
}

/** Rows `which` of x [all, cols] one below the other; of a TN operand [k, all] its columns. */
const pick = (x: ArrayLike<number>, which: ReadonlyArray<number>, cols: number, all: number, columns: boolean) =>
  columns
    ? Float32Array.from({ length: cols * which.length }, (_, i) => {
        const [l, r] = [Math.floor(i / which.length), i % which.length]
        return x[l * all + (which[r] ?? 0)] ?? 0
      })
    : Float32Array.from(
        { length: which.length * cols },
        (_, i) => x[(which[Math.floor(i / cols)] ?? 0) * cols + (i % cols)] ?? 0
      )

const nameOf = (p: Product): string =>
  [
    `matmul ${p.layout} ${p.m} x ${p.n} x ${p.k}`,
    ...Object.entries(p).flatMap(([key, value]) =>
      ["layout", "m", "n", "k", "rows"].includes(key) || value === undefined
        ? []
        : [value === true ? key : `${key} ${value}`]
    )
  ].join(" ")

const product = (p: Product, seed: number): CheckCase => ({
  name: nameOf(p),
  prepare: Effect.gen(function* () {
    const random = inputs(seed)
    const { k, layout, m, n, storage } = p
    // Scaled so that results are of order 1 whatever k is.
    const a = random.floats(m * k)
    const b = random.floats(n * k, 1 / Math.sqrt(k))
    const bias = p.bias ? random.floats(n) : undefined
    const residual = p.residual ? random.floats(m * n) : undefined
    const previous = p.accumulate ? random.floats(m * n) : undefined
    const extra = p.extra ? { a: random.floats(m * p.extra), b: random.floats(n * p.extra), k: p.extra } : undefined
    const [rows, cols] = layout === "NT" ? [n, k] : [k, n]
    let weight: MatmulArgs["b"]
    let held: ArrayLike<number> = b
    if (storage === undefined) weight = yield* f32(b)
    else {
      const matrix = yield* allocMatrix("check", storage, rows, cols)
      yield* writeRows(matrix, 0, rows, packRows(storage, b, rows, cols))
      weight = matrix
      held = meaning(storage, b, rows, cols)
    }
    const out = yield* result(m * n)
    const args: MatmulArgs = {
      ...{ a: yield* f32(a), b: weight, out, m, n, k },
      ...(p.alpha === undefined ? {} : { alpha: p.alpha }),
      ...(bias ? { bias: yield* f32(bias) } : {}),
      ...(residual ? { residual: yield* f32(residual) } : {}),
      ...(p.accumulate ? { accumulate: true } : {}),
      ...(p.capacity === undefined ? {} : { capacity: p.capacity }),
      ...(extra ? { extra: { a: yield* f32(extra.a), b: yield* f32(extra.b), k: extra.k } } : {})
    }
    const all = Array.from({ length: m }, (_, i) => i)
    // The first, the last, and some between.
    const which = p.rows === undefined ? all : [0, m - 1, ...random.integers(Math.max(0, p.rows - 2), m)]
    const some = (x: Float32Array | undefined) => x && pick(x, which, n, m, false)
    const expected = matmul(layout, {
      a: p.rows === undefined ? a : pick(a, which, k, m, layout === "TN"),
      b: held,
      ...{ m: which.length, n, k, alpha: p.alpha, bias },
      residual: some(residual),
      previous: some(previous),
      extra: extra && { ...extra, a: pick(extra.a, which, extra.k, m, layout === "TN") }
    })
    return {
      record: (tape, ops) =>
        layout === "NT"
          ? ops.matmulNT(tape, args)
          : layout === "NN"
            ? ops.matmulNN(tape, args)
            : ops.matmulTN(tape, args),
      outputs: [
        {
          name: "out",
          tensor: out,
          initial: previous,
          expected,
          at: which.flatMap((r) => Array.from({ length: n }, (_, c) => r * n + c)),
          tolerance: 1e-4
        }
      ]
    }
  })
})

const layouts: ReadonlyArray<Layout> = ["NT", "NN", "TN"]
const storages: ReadonlyArray<Storage> = Object.keys(storageLayout).filter((s): s is Storage => s in storageLayout)

/**
 * A product that every rung can take, past the edge of a tile in each dimension and with all that rides along, in each layout and
 * storage that there is; those that models use most come first.
 */
export const oneOfEach = (): ReadonlyArray<CheckCase> => {
  const sixteen = storages.filter((s) => s.startsWith("f16"))
  const others = storages.filter((s) => !sixteen.includes(s))
  const shape = { m: 70, n: 132, k: 72 }
  const list = [...sixteen, ...others].flatMap((storage) =>
    (["NT", "NN"] as const).map(
      (layout): Product => ({ layout, storage, ...shape, bias: true, residual: true, extra: 8 })
    )
  )
  const transposed: Product = { layout: "TN", ...shape, m: 68, alpha: 0.5, accumulate: true }
  return [...list.slice(0, 2 * sixteen.length), transposed, ...list.slice(2 * sixteen.length)].map((p, i) =>
    product(p, 900 + i)
  )
}

const mask: CheckCase = {
  name: "lora mask",
  prepare: Effect.gen(function* () {
    const random = inputs(70)
    const [rank, ends] = [8, [40, 56, 72]]
    const before = random.floats(72 * 24)
    const db = yield* result(72 * 24)
    return {
      record: (tape, ops) => ops.loraMask(tape, { db, rows: 72, rank, ends }),
      outputs: [{ name: "db", tensor: db, initial: before, expected: blockDiagonal(before, rank, ends) }]
    }
  })
}

/** Products of few rows that take the norm of their rows and a gate along where the device can; elsewhere these are kernels of their own. */
const fused = (storage: Storage, gated: boolean, seed: number): CheckCase => ({
  name: `matmul NT of normed rows, ${storage}${gated ? ", gated" : ""}`,
  prepare: Effect.gen(function* () {
    const random = inputs(seed)
    const [m, n, k, eps] = [3, 72, 96, 1e-6]
    const [x, w] = [random.floats(m * k), random.floats(k)]
    const values = random.floats(n * k, 1 / Math.sqrt(k))
    const b = yield* allocMatrix("check", storage, n, k)
    yield* writeRows(b, 0, n, packRows(storage, values, n, k))
    const t = { a: yield* f32(x), w: yield* f32(w), normed: yield* result(m * k), rstd: yield* result(m) }
    const [wide, out] = [yield* result(m * n), yield* result(gated ? (m * n) / 2 : m * n)]
    const normed = rmsNorm(x, w, m, k, eps).y
    const plain = matmul("NT", { a: normed, b: meaning(storage, values, n, k), m, n, k })
    const args = { b, m, n, k, capacity: 8 }
    return {
      record: (tape, ops) => {
        const can = ops.fused(args)
        if (can.norm && (can.gated || !gated))
          return ops.matmulNT(tape, { ...args, a: t.a, out, norm: { weight: t.w, eps }, ...(gated ? { gated } : {}) })
        ops.rmsNorm(tape, { x: t.a, w: t.w, y: t.normed, rstd: t.rstd, rows: m, dim: k, eps })
        ops.matmulNT(tape, { ...args, a: t.normed, out: gated ? wide : out })
        if (gated) ops.swiglu(tape, { gu: wide, y: out, rows: m, dim: n / 2 })
      },
      outputs: [{ name: "out", tensor: out, expected: gated ? swiglu(plain, m, n / 2) : plain }]
    }
  })
})

/** Merging into 16 bits rounds once, to the nearest. */
const merge = (storage: "f16" | "f16_tiles"): CheckCase => ({
  name: `merge an adapter into ${storage}`,
  prepare: Effect.gen(function* () {
    const gpu = yield* Gpu
    const random = inputs(71)
    const [rows, cols, width, scale] = [70, 96, 8, 0.5]
    const w = random.floats(rows * cols)
    const [b, a] = [random.floats(rows * width, 0.3), random.floats(width * cols, 0.3)]
    const packed = packRows(storage, w, rows, cols)
    const matrix = yield* allocMatrix("check", storage, rows, cols)
    const unpack = storage === "f16" ? unpackF16 : unpackF16Tiles
    const part = matrix.parts[0]
    const tensors = { b: yield* f32(b), a: yield* f32(a) }
    const expected = matmul("NN", {
      a: b,
      b: a,
      m: rows,
      n: cols,
      k: width,
      alpha: scale,
      previous: unpack(packed.data, rows, cols, matrix.stride)
    })
    const data = part?.data ?? (yield* gpu.alloc("none", "u32", 1))
    return {
      record: (tape, ops) => ops.addLowRank(tape, { w: matrix, ...tensors, width, scale }),
      outputs: [
        {
          name: "w",
          tensor: data,
          initial: packed.data,
          expected: (actual) => {
            const words = Uint32Array.from({ length: actual.length }, (_, i) => actual[i] ?? 0)
            const merged = unpack(words, rows, cols, matrix.stride)
            let worst = 0
            for (let i = 0; i < expected.length; i++) {
              const y = expected[i] ?? Number.NaN
              // Half a step of 11 bits, and the rounding of the sum in 32 bits before.
              const bound = Math.abs(y) * 2 ** -11 * 1.01 + 2 ** -24
              const error = Math.abs((merged[i] ?? Number.NaN) - y) / bound
              if (!(error <= worst)) worst = Number.isNaN(error) ? Number.POSITIVE_INFINITY : error
            }
            return worst
          }
        }
      ]
    }
  })
})

/** `large` adds shapes of real models, checked by some of their rows. */
export const productCases = (large: boolean): ReadonlyArray<CheckCase> => {
  const list: Array<Product> = []
  const shapes: ReadonlyArray<readonly [number, number, number]> = [
    [1, 1, 1],
    [1, 36, 16],
    [3, 7, 5],
    [17, 33, 40],
    [65, 68, 72],
    [70, 130, 19]
  ]
  const even: ReadonlyArray<readonly [number, number, number]> = large
    ? [
        [1, 256, 512],
        [16, 192, 320],
        [64, 128, 256],
        [129, 257, 513],
        [256, 384, 128]
      ]
    : [[16, 64, 96]]
  for (const layout of layouts) {
    for (const [m, n, k] of [...shapes, ...even]) list.push({ layout, m, n, k })
    list.push({ layout, m: 11, n: 36, k: 24, alpha: -0.375, accumulate: true })
    if (layout === "TN") continue
    list.push(
      { layout, m: 11, n: 36, k: 24, bias: true, residual: true, extra: 8 },
      { layout, m: 130, n: 64, k: 96, alpha: 2, bias: true, residual: true, accumulate: true, extra: 16 },
      { layout, m: 1, n: 5, k: 7, extra: 3, residual: true },
      // A long inner dimension for few columns is cut into parts that other workgroups add up.
      { layout, m: 3, n: 24, k: 1024, capacity: 8, residual: true },
      { layout, m: 40, n: 64, k: 640, capacity: 64, alpha: 0.5, bias: true, extra: 8 }
    )
    for (const storage of storages) {
      for (const [m, n, k] of [[1, 64, 96], [5, 33, 40], [70, 130, 64], ...even] as const) {
        list.push({ layout, m, n, k, storage })
      }
      list.push(
        { layout, m: 33, n: 72, k: 64, storage, residual: true, extra: 8 },
        { layout, m: 2, n: 64, k: 512, storage, capacity: 8, extra: 8 }
      )
    }
    if (large) {
      for (const storage of storages) {
        list.push({ layout, m: 1000, n: 1152, k: 3584, storage, extra: 24, rows: 4 })
        list.push({ layout, m: 2, n: 512, k: 18_944, storage, capacity: 8 })
      }
    }
  }
  if (large)
    list.push({ layout: "TN", m: 24, n: 3584, k: 4096, rows: 4 }, { layout: "TN", m: 3584, n: 24, k: 1000, rows: 6 })
  const few = storages.flatMap((storage, i) => [false, true].map((gated) => fused(storage, gated, 800 + i)))
  const others = [mask, merge("f16"), merge("f16_tiles")]
  return [...oneOfEach(), ...few, ...others, ...list.map((p, i) => product(p, 1000 + i))]
}
