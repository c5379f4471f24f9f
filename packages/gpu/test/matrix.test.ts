/** Weight matrices in every storage: packing against the formats' definition, and products against the f64 oracle of what is stored. */
import { assert, describe, it, layer } from "@effect/vitest"
import { matmul } from "@srcode/kernels/matmul/reference"
import { unpackF16, unpackF16Tiles, unpackInt4, unpackInt8 } from "@srcode/kernels/weight/reference"
import { Effect } from "effect"
import {
  allocMatrix,
  bitsPerWeight,
  denseTensor,
  Gpu,
  type Matrix,
  matrixBytes,
  matrixRows,
  packRows,
  rowsPerPart,
  type Storage,
  strideOf,
  writeRows
} from "../src/index.ts"
import {
  assertClose,
  assertSameBits,
  blank,
  DeviceLayer,
  f32,
  launch,
  opsOf,
  read,
  seeded,
  u32,
  variants
} from "./support.ts"

const storages: ReadonlyArray<Storage> = ["f32", "f16", "f16_tiles", "int8", "int4"]

/** What packed rows stand for. */
const meaning = (storage: Storage, values: Float32Array<ArrayBuffer>, rows: number, cols: number): Float64Array => {
  const { data, scales } = packRows(storage, values, rows, cols)
  const stride = strideOf(storage, cols)
  switch (storage) {
    case "f32":
      return Float64Array.from(values)
    case "f16":
      return unpackF16(data, rows, cols, stride)
    case "f16_tiles":
      return unpackF16Tiles(data, rows, cols, stride)
    case "int8":
      return unpackInt8(data, new Float32Array(scales.buffer), rows, cols, stride)
    case "int4":
      return unpackInt4(data, scales, rows, cols, stride)
  }
}

describe("packing", () => {
  it("errs by no more than the formats allow", () => {
    const random = seeded(1)
    for (const cols of [1, 7, 32, 33, 100]) {
      const values = random.floats(5 * cols, 0.05)
      values[0] = 0
      const rowLargest = (i: number) => {
        const row = Math.floor(i / cols)
        return values.subarray(row * cols, (row + 1) * cols).reduce((m, v) => Math.max(m, Math.abs(v)), 0)
      }
      for (const [i, w] of meaning("f16", values, 5, cols).entries())
        assert.isAtMost(Math.abs(w - values[i]!), Math.abs(values[i]!) * 2 ** -11 + 2 ** -25)
      for (const [i, w] of meaning("int8", values, 5, cols).entries())
        assert.isAtMost(Math.abs(w - values[i]!), (rowLargest(i) / 127) * 0.5001)
      for (const [i, w] of meaning("int4", values, 5, cols).entries()) {
        const [row, block] = [Math.floor(i / cols), Math.floor((i % cols) / 32)]
        const own = values.subarray(row * cols + block * 32, Math.min(row * cols + block * 32 + 32, (row + 1) * cols))
        const range = Math.max(...own) - Math.min(...own)
        assert.isAtMost(Math.abs(w - values[i]!), range / 30 + rowLargest(i) * 2 ** -10 + 2 ** -24)
      }
    }
  })

  it("keeps what a format can hold exactly", () => {
    const halves = Float32Array.from([0, 1, -2.5, 65504, 2 ** -14, -(2 ** -24), 0.333251953125])
    assert.deepStrictEqual([...meaning("f16", halves, 1, 7)], [...halves])
    const bytes = Float32Array.from([127, -127, 0, 64, -1]).map((q) => q * 0.5)
    assert.deepStrictEqual([...meaning("int8", bytes, 1, 5)], [...bytes])
    const steps = Float32Array.from({ length: 32 }, (_, i) => -2 + 0.25 * (i % 16))
    assert.deepStrictEqual([...meaning("int4", steps, 2, 16)], [...steps])
    for (const storage of storages)
      assert.deepStrictEqual([...meaning(storage, new Float32Array(6), 2, 3)], [0, 0, 0, 0, 0, 0])
  })

  it("takes the bytes that it says", () => {
    assert.strictEqual(matrixBytes("f32", 3, 5), 60)
    assert.strictEqual(matrixBytes("f16", 3, 5), 48)
    assert.strictEqual(matrixBytes("f16_tiles", 3, 5), 512)
    assert.strictEqual(matrixBytes("f16_tiles", 17, 33), 2 * 3 * 512)
    assert.strictEqual(matrixBytes("int8", 3, 5), 60)
    assert.strictEqual(matrixBytes("int4", 3, 5), 60)
    assert.deepStrictEqual(storages.map(bitsPerWeight), [32, 16, 16, 8, 5])
    for (const storage of storages) {
      const { data, scales } = packRows(storage, new Float32Array(3 * 5), 3, 5)
      assert.strictEqual(4 * (data.length + scales.length), matrixBytes(storage, 3, 5))
    }
  })

  it("puts every number of odd sizes where its tile says, zeros around them", () => {
    const random = seeded(2)
    for (const [rows, cols] of [
      [1, 1],
      [15, 17],
      [16, 16],
      [33, 40],
      [70, 19]
    ] as const) {
      const values = Float32Array.from({ length: rows * cols }, () => 1 + random.integer(1000))
      const { data } = packRows("f16_tiles", values, rows, cols)
      const stride = strideOf("f16_tiles", cols)
      assert.strictEqual(stride, Math.ceil(cols / 16) * 16)
      assert.deepStrictEqual([...unpackF16Tiles(data, rows, cols, stride)], [...values])
      const halves = new Uint16Array(data.buffer)
      assert.lengthOf(halves, Math.ceil(rows / 16) * 16 * stride)
      assert.strictEqual(halves.filter((h) => h !== 0).length, rows * cols)
      // Two numbers of the second band by hand.
      if (rows > 32 && cols > 18) {
        const numbers = new Float16Array(data.buffer)
        assert.strictEqual(numbers[16 * stride + 256 + 2], values[16 * cols + 18])
        assert.strictEqual(numbers[16 * stride + 3 * 16 + 5], values[19 * cols + 5])
      }
    }
  })

  it("is cut so that no part exceeds a binding", () => {
    assert.strictEqual(rowsPerPart("f32", 100, 10, 4000), 100)
    assert.strictEqual(rowsPerPart("f32", 101, 10, 4000), 64)
    assert.strictEqual(rowsPerPart("f16", 151936, 896, 128 * 2 ** 20), 74880)
    assert.strictEqual(rowsPerPart("f32", 101, 10, 64 * 40 - 1), 0)
    assert.strictEqual(rowsPerPart("f16_tiles", 65, 10, 64 * 32 + 15 * 32), 64)
    assert.strictEqual(rowsPerPart("f16_tiles", 65, 10, 64 * 32 + 16 * 32), 65)
  })
})

/** A matrix with the given values, cut into parts of at most `most` rows as a small binding would. */
const upload = Effect.fn("test.upload")(function* (
  storage: Storage,
  values: Float32Array<ArrayBuffer>,
  rows: number,
  cols: number,
  most: number
) {
  const pieces: Array<Matrix> = []
  for (let first = 0; first < rows; first += most)
    pieces.push(yield* allocMatrix("w", storage, Math.min(most, rows - first), cols))
  const matrix: Matrix = {
    label: "w",
    rows,
    cols,
    storage,
    stride: strideOf(storage, cols),
    parts: pieces.flatMap((piece, i) => piece.parts.map((part) => ({ ...part, first: i * most })))
  }
  // In two uploads that do not end where the parts do; tiles go in whole bands.
  const middle = storage === "f16_tiles" ? Math.floor(rows / 48) * 16 : Math.floor(rows / 3)
  for (const [from, to] of [
    [0, middle],
    [middle, rows]
  ] as const) {
    const some = values.slice(from * cols, to * cols)
    yield* writeRows(matrix, from, to - from, packRows(storage, some, to - from, cols))
  }
  return matrix
})

/**
 * Products of every kind of launch: one row, a few, more, and inner dimensions that no quad divides. f32 takes the widest tiles; what
 * tells the other storages apart is the same in the smallest, which compile in a fraction of the time.
 */
const shapesOf = (storage: Storage) => [
  { m: 1, rows: 24, cols: 32, most: 64 },
  ...(storage === "f32"
    ? [
        { m: 3, rows: 136, cols: 40, most: 64 },
        { m: 9, rows: 200, cols: 64, most: 64 }
      ]
    : [
        { m: 3, rows: 16, cols: 40, most: storage === "f16_tiles" ? 16 : 8 },
        { m: 7, rows: 13, cols: 64, most: storage === "f16_tiles" ? 16 : 8 }
      ]),
  { m: 5, rows: 131, cols: 19, most: 64 }
]

layer(DeviceLayer)("products with weight matrices", (it) => {
  for (const variant of variants) {
    for (const storage of storages) {
      it.effect(`${storage} on ${variant}: both layouts, in one part and in several`, () =>
        Effect.gen(function* () {
          const ops = yield* opsOf(variant)
          const random = seeded(11)
          for (const { m, rows, cols, most } of shapesOf(storage)) {
            const values = random.floats(rows * cols, 0.1)
            const held = meaning(storage, values, rows, cols)
            const [x, dy] = [random.floats(m * cols), random.floats(m * rows)]
            const [bias, residual] = [random.floats(rows), random.floats(m * rows)]
            const extra = { a: random.floats(m * 8), b: random.floats(rows * 8), k: 8 }
            const back = { a: random.floats(m * 8), b: random.floats(8 * cols), k: 8 }
            const outputs: Array<Float32Array<ArrayBuffer>> = []
            for (const part of [rows, most]) {
              const w = yield* upload(storage, values, rows, cols, part)
              const y = yield* blank("y", m * rows)
              const dx = yield* blank("dx", m * cols)
              const [tx, tdy] = [yield* f32("x", x), yield* f32("dy", dy)]
              const [tb, tr] = [yield* f32("bias", bias), yield* f32("residual", residual)]
              const te = { a: yield* f32("ea", extra.a), b: yield* f32("eb", extra.b), k: 8 }
              const tk = { a: yield* f32("ba", back.a), b: yield* f32("bb", back.b), k: 8 }
              yield* launch(ops, (tape, o) => {
                o.matmulNT(tape, {
                  a: tx,
                  b: w,
                  out: y,
                  m,
                  n: rows,
                  k: cols,
                  alpha: 0.5,
                  bias: tb,
                  residual: tr,
                  extra: te
                })
                o.matmulNN(tape, { a: tdy, b: w, out: dx, m, n: cols, k: rows, alpha: 2, extra: tk })
              })
              const name = `${storage} ${variant} ${m}x${rows}x${cols} parts of ${part}`
              const expected = matmul("NT", { a: x, b: held, m, n: rows, k: cols, alpha: 0.5, bias, residual, extra })
              assertClose(`NT ${name}`, yield* read(y), expected, 1e-5)
              outputs.push(yield* read(y))
              const expectedBack = matmul("NN", { a: dy, b: held, m, n: cols, k: rows, alpha: 2, extra: back })
              assertClose(`NN ${name}`, yield* read(dx), expectedBack, 1e-5)
            }
            assertSameBits("one part and several", outputs[0]!, outputs[1]!)
          }
        }).pipe(Effect.scoped)
      )
    }

    for (const storage of ["f32", "f16", "f16_tiles"] as const) {
      if (storage !== "f16_tiles")
        it.effect(`a table of ${storage} on ${variant}: rows by id, over parts`, () =>
          Effect.gen(function* () {
            const ops = yield* opsOf(variant)
            const [rows, cols] = [150, 19]
            const values = seeded(5).floats(rows * cols)
            const held = meaning(storage, values, rows, cols)
            const table = yield* upload(storage, values, rows, cols, 64)
            const ids = [0, 149, 63, 64, 127, 128, 5, 64]
            const out = yield* blank("out", ids.length * cols)
            const id = yield* u32("id", ids)
            yield* launch(ops, (tape, o) => o.gatherRows(tape, { table, id, out, rows: ids.length, dim: cols }))
            const expected = ids.flatMap((i) => [...held.subarray(i * cols, (i + 1) * cols)])
            assert.deepStrictEqual([...(yield* read(out))], expected)
          }).pipe(Effect.scoped)
        )

      it.effect(`an adapter merges into ${storage} on ${variant}, over parts`, () =>
        Effect.gen(function* () {
          const gpu = yield* Gpu
          const ops = yield* opsOf(variant)
          const random = seeded(6)
          const [rows, cols, width] = [150, 19, 3]
          const values = random.floats(rows * cols)
          const w = yield* upload(storage, values, rows, cols, 64)
          const [b, a] = [random.floats(rows * width), random.floats(width * cols)]
          const [tb, ta] = [yield* f32("b", b), yield* f32("a", a)]
          yield* launch(ops, (tape, o) => o.addLowRank(tape, { w, b: tb, a: ta, width, scale: 0.25 }))
          const held = meaning(storage, values, rows, cols)
          const expected = matmul("NN", { a: b, b: a, m: rows, n: cols, k: width, alpha: 0.25, previous: held })
          const actual: Array<number> = []
          for (const part of w.parts) {
            if (part.storage === "f32") actual.push(...(yield* gpu.read(part.data)))
            else if (part.storage === "f16")
              actual.push(...unpackF16(yield* gpu.read(part.data), part.rows, cols, w.stride))
            else if (part.storage === "f16_tiles")
              actual.push(...unpackF16Tiles(yield* gpu.read(part.data), part.rows, cols, w.stride))
          }
          assertClose("merged", actual, expected, storage === "f32" ? 1e-6 : 2 ** -11)
        }).pipe(Effect.scoped)
      )
    }
  }

  it.effect("rows of a matrix are a matrix, wherever its parts begin", () =>
    Effect.gen(function* () {
      const random = seeded(8)
      const [rows, cols, m] = [200, 32, 1]
      const x = random.floats(m * cols)
      const tx = yield* f32("x", x)
      const ops = yield* opsOf("software")
      for (const storage of storages) {
        const values = random.floats(rows * cols)
        const held = meaning(storage, values, rows, cols)
        const w = matrixRows(yield* upload(storage, values, rows, cols, 128), 64, 197)
        assert.strictEqual(w.parts.length, 2)
        const y = yield* blank("y", m * 133)
        yield* launch(ops, (tape, o) => o.matmulNT(tape, { a: tx, b: w, out: y, m, n: 133, k: cols }))
        const expected = matmul("NT", { a: x, b: held.subarray(64 * cols), m, n: 133, k: cols })
        assertClose(storage, yield* read(y), expected, 1e-5)
      }
    }).pipe(Effect.scoped)
  )

  it.effect("wrong shapes and storages are refused by name", () =>
    Effect.gen(function* () {
      const gpu = yield* Gpu
      const ops = yield* opsOf("software")
      const w = yield* allocMatrix("w", "int8", 8, 16)
      const x = yield* blank("x", 64)
      const out = yield* blank("out", 64)
      const id = yield* u32("id", [0])
      const wrong = yield* gpu
        .submit("test", (tape) => ops.matmulNT(tape, { a: x, b: w, out, m: 1, n: 16, k: 8 }))
        .pipe(Effect.flip)
      assert.include(wrong.message, "weight matrix [8, 16]")
      const table = yield* gpu
        .submit("test", (tape) => ops.gatherRows(tape, { table: w, id, out, rows: 1, dim: 16 }))
        .pipe(Effect.flip)
      assert.include(table.message, "int8")
      const merge = yield* gpu
        .submit("test", (tape) => ops.addLowRank(tape, { w, b: x, a: x, width: 1, scale: 1 }))
        .pipe(Effect.flip)
      assert.include(merge.message, "nothing can be added to")
      assert.strictEqual(denseTensor(w), undefined)
      const tiles = yield* allocMatrix("tiles", "f16_tiles", 40, 16)
      const some = (rows: number) => packRows("f16_tiles", new Float32Array(rows * 16), rows, 16)
      for (const [first, rows] of [
        [8, 16],
        [16, 8]
      ] as const) {
        const split = yield* Effect.flip(writeRows(tiles, first, rows, some(rows)))
        assert.include(split.message, "whole bands of 16")
      }
      yield* writeRows(tiles, 32, 8, some(8))
    }).pipe(Effect.scoped)
  )
})
