/**
 * A weight matrix on the device: `rows` output features by `cols` input features, row-major, in one of five storages.
 *
 * A matrix larger than one storage binding lies in several parts, cut between rows at multiples of `tensorAlignment`; ops
 * take all parts in turn, so nobody else needs to know. Packed storages pad each row to `stride` numbers with zeros.
 *
 * - `f32`: as is; `stride` = `cols`.
 * - `f16`: two numbers a word.
 * - `f16_tiles`: the same in tiles of 16 x 16, for matrix units; the rows of a part are padded to 16 (kernels/weight/README.md).
 * - `int8`: four numbers a word, one f32 scale a row.
 * - `int4`: eight numbers a word, for each block of 32 along a row a scale and a lowest value (two f16 in one word).
 */
import { Effect, type Scope } from "effect"
import { Gpu } from "./Gpu.ts"
import { type GpuError, gpuError, OutOfMemory } from "./GpuError.ts"
import { type Tensor, tensorAlignment, window } from "./Tensor.ts"

export type Storage = "f32" | "f16" | "f16_tiles" | "int8" | "int4"

/** Numbers a 32-bit word holds, and what a row's length is rounded up to. */
export const storageLayout: Readonly<Record<Storage, { readonly perWord: number; readonly pad: number }>> = {
  f32: { perWord: 1, pad: 1 },
  f16: { perWord: 2, pad: 8 },
  f16_tiles: { perWord: 2, pad: 16 },
  int8: { perWord: 4, pad: 16 },
  int4: { perWord: 8, pad: 32 }
}

/** Rows and columns of a tile. */
export const tileSide = 16

/** Columns of one block of an int4 row. */
export const int4Block = 32

/** Rows `first … first + rows - 1` of a matrix. */
export type MatrixPart =
  | { readonly storage: "f32"; readonly first: number; readonly rows: number; readonly data: Tensor<"f32"> }
  | {
      readonly storage: "f16" | "f16_tiles"
      readonly first: number
      readonly rows: number
      readonly data: Tensor<"u32">
    }
  | {
      readonly storage: "int8"
      readonly first: number
      readonly rows: number
      readonly data: Tensor<"u32">
      readonly scales: Tensor<"f32">
    }
  | {
      readonly storage: "int4"
      readonly first: number
      readonly rows: number
      readonly data: Tensor<"u32">
      readonly scales: Tensor<"u32">
    }

export interface Matrix {
  readonly label: string
  readonly rows: number
  readonly cols: number
  /** Numbers from one row to the next. */
  readonly stride: number
  readonly storage: Storage
  readonly parts: ReadonlyArray<MatrixPart>
}

/** Numbers from one row to the next for `cols` columns. */
export const strideOf = (storage: Storage, cols: number): number => {
  const { pad } = storageLayout[storage]
  return Math.ceil(cols / pad) * pad
}

/** Rows that are held for `rows` rows: tiles are whole. */
export const rowsHeld = (storage: Storage, rows: number): number =>
  storage === "f16_tiles" ? Math.ceil(rows / tileSide) * tileSide : rows

/** 32-bit words of `rows` rows: the numbers, and the scales beside them. */
export const wordsOf = (storage: Storage, rows: number, cols: number): { data: number; scales: number } => {
  const stride = strideOf(storage, cols)
  const scales = storage === "int8" ? rows : storage === "int4" ? rows * (stride / int4Block) : 0
  return { data: (rowsHeld(storage, rows) * stride) / storageLayout[storage].perWord, scales }
}

/** A plain tensor [rows, cols] seen as a matrix of one part. */
export const denseMatrix = (data: Tensor<"f32">, rows: number, cols: number): Matrix => ({
  label: data.label,
  rows,
  cols,
  stride: cols,
  storage: "f32",
  parts: [{ storage: "f32", first: 0, rows, data }]
})

/** The tensor of a matrix that lies in one piece of f32; undefined for any other. */
export const denseTensor = (matrix: Matrix): Tensor<"f32"> | undefined => {
  const [part, ...more] = matrix.parts
  return part?.storage === "f32" && more.length === 0 ? part.data : undefined
}

const cut = (part: MatrixPart, from: number, to: number, stride: number): MatrixPart => {
  const { perWord } = storageLayout[part.storage]
  const range = { first: part.first + from, rows: to - from }
  const words = (n: number) => (n * stride) / perWord
  switch (part.storage) {
    case "f32":
      return { ...part, ...range, data: window(part.data, words(from), words(to - from)) }
    case "f16":
    case "f16_tiles":
      return { ...part, ...range, data: window(part.data, words(from), words(rowsHeld(part.storage, to - from))) }
    case "int8":
      return {
        ...part,
        ...range,
        data: window(part.data, words(from), words(to - from)),
        scales: window(part.scales, from, to - from)
      }
    case "int4": {
      const blocks = stride / int4Block
      return {
        ...part,
        ...range,
        data: window(part.data, words(from), words(to - from)),
        scales: window(part.scales, from * blocks, (to - from) * blocks)
      }
    }
  }
}

/** Rows `[from, to)` as a matrix of their own; `from` must be a multiple of `tensorAlignment`. Nothing is copied. */
export const matrixRows = (matrix: Matrix, from: number, to: number): Matrix => {
  const parts = matrix.parts.flatMap((part) => {
    const [low, high] = [Math.max(from, part.first), Math.min(to, part.first + part.rows)]
    if (low >= high) return []
    const piece = cut(part, low - part.first, high - part.first, matrix.stride)
    return [{ ...piece, first: piece.first - from }]
  })
  return { ...matrix, rows: to - from, parts }
}

/**
 * How many rows each part of a matrix takes, so that none of its buffers exceeds `binding` bytes: all rows where they fit,
 * else a multiple of `tensorAlignment`. 0 when not even that many rows fit.
 */
export const rowsPerPart = (storage: Storage, rows: number, cols: number, binding: number): number => {
  const fits = (count: number): boolean => wordsOf(storage, count, cols).data * 4 <= binding
  if (fits(rows)) return rows
  const step = wordsOf(storage, tensorAlignment, cols).data * 4
  return Math.floor(binding / step) * tensorAlignment
}

/** Allocates a zeroed matrix, in as many parts as the device's largest storage binding asks for. Freed with the Scope. */
export const allocMatrix = (
  label: string,
  storage: Storage,
  rows: number,
  cols: number
): Effect.Effect<Matrix, GpuError, Gpu | Scope.Scope> =>
  Effect.gen(function* () {
    const gpu = yield* Gpu
    const { maxStorageBufferBindingSize, maxBufferSize } = gpu.info.limits
    const binding = Math.min(maxStorageBufferBindingSize ?? 2 ** 31 - 4, maxBufferSize ?? 2 ** 31 - 4)
    const most = rowsPerPart(storage, rows, cols, binding)
    if (most === 0) {
      const bytes = wordsOf(storage, tensorAlignment, cols).data * 4
      const { live } = yield* gpu.memory
      const limitName = "the device's largest storage binding"
      return yield* gpuError(new OutOfMemory({ label, bytes, live, limit: binding, limitName }))
    }
    const parts: Array<MatrixPart> = []
    for (let first = 0; first < rows; first += most) {
      const count = Math.min(most, rows - first)
      const name = most < rows ? `${label}[${first}…]` : label
      const words = wordsOf(storage, count, cols)
      const range = { first, rows: count }
      if (storage === "f32") parts.push({ storage, ...range, data: yield* gpu.alloc(name, "f32", words.data) })
      else if (storage === "f16" || storage === "f16_tiles")
        parts.push({ storage, ...range, data: yield* gpu.alloc(name, "u32", words.data) })
      else if (storage === "int8") {
        const data = yield* gpu.alloc(name, "u32", words.data)
        parts.push({ storage, ...range, data, scales: yield* gpu.alloc(`${name}.scales`, "f32", words.scales) })
      } else {
        const data = yield* gpu.alloc(name, "u32", words.data)
        parts.push({ storage, ...range, data, scales: yield* gpu.alloc(`${name}.scales`, "u32", words.scales) })
      }
    }
    return { label, rows, cols, stride: strideOf(storage, cols), storage, parts }
  })
