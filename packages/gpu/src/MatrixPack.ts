/**
 * Numbers into the packed storages of a `Matrix`: pure functions from rows of f32 to words on the host, and their upload.
 * Formats and errors: kernels/weight/README.md.
 */
import { Effect } from "effect"
import { Gpu } from "./Gpu.ts"
import { gpuError, InvalidDispatch } from "./GpuError.ts"
import { int4Block, type Matrix, rowsHeld, type Storage, storageLayout, strideOf, tileSide, wordsOf } from "./Matrix.ts"

export interface PackedRows {
  readonly data: Uint32Array<ArrayBuffer>
  /** int8: the bits of f32 scales; int4: pairs of 16-bit floats; empty for the others. */
  readonly scales: Uint32Array<ArrayBuffer>
}

/** The largest finite 16-bit float. */
export const largestF16 = 65504

/** f32 into the bytes of an f16 row image; `values` [rows, cols]. Numbers beyond ±65504 become infinite: check before. */
const packF16 = (values: Float32Array, rows: number, cols: number, stride: number): Uint32Array<ArrayBuffer> => {
  const words = new Uint32Array((rows * stride) / 2)
  const halves = new Float16Array(words.buffer)
  if (stride === cols) halves.set(values)
  else for (let r = 0; r < rows; r++) halves.set(values.subarray(r * cols, (r + 1) * cols), r * stride)
  return words
}

/**
 * A row image of 16-bit floats [rows, stride] as tiles of 16 x 16: each 512 bytes on end, tile after tile of a band of 16 rows, numbers row
 * by row within a tile. `stride` is a multiple of 16; missing rows of the last band are zeros.
 */
export const tileF16 = (rowImage: Uint32Array, rows: number, stride: number): Uint32Array<ArrayBuffer> => {
  const perRow = stride / 2
  const perTile = (tileSide * tileSide) / 2
  const out = new Uint32Array(rowsHeld("f16_tiles", rows) * perRow)
  for (let r = 0; r < rows; r++) {
    let from = r * perRow
    let to = Math.floor(r / tileSide) * tileSide * perRow + (r % tileSide) * (tileSide / 2)
    for (const end = from + perRow; from < end; to += perTile)
      for (let i = 0; i < tileSide / 2; i++) out[to + i] = rowImage[from++]!
  }
  return out
}

// The loops below run over billions of numbers: plain indexing, one division a row or block.

const packInt8 = (values: Float32Array, rows: number, cols: number): PackedRows => {
  const stride = strideOf("int8", cols)
  const data = new Uint32Array((rows * stride) / 4)
  const scales = new Float32Array(rows)
  for (let r = 0; r < rows; r++) {
    const from = r * cols
    let largest = 0
    for (let i = from; i < from + cols; i++) {
      const size = Math.abs(values[i]!)
      if (size > largest) largest = size
    }
    const scale = Math.fround(largest / 127)
    scales[r] = scale
    if (scale === 0) continue
    const inverse = 1 / scale
    let word = 0
    for (let c = 0; c < cols; c++) {
      const q = values[from + c]! * inverse
      const nearest = (q < 0 ? q - 0.5 : q + 0.5) | 0
      const byte = nearest > 127 ? 127 : nearest < -127 ? -127 : nearest
      word |= (byte & 0xff) << (8 * (c & 3))
      if ((c & 3) === 3 || c === cols - 1) {
        data[(r * stride + c) >>> 2] = word
        word = 0
      }
    }
  }
  return { data, scales: new Uint32Array(scales.buffer) }
}

const packInt4 = (values: Float32Array, rows: number, cols: number): PackedRows => {
  const stride = strideOf("int4", cols)
  const blocks = stride / int4Block
  const data = new Uint32Array((rows * stride) / 8)
  const scales = new Uint32Array(rows * blocks)
  const pairs = new Float16Array(scales.buffer)
  for (let at = 0; at < rows * blocks; at++) {
    const r = Math.floor(at / blocks)
    const from = r * cols + (at - r * blocks) * int4Block
    const to = Math.min(from + int4Block, (r + 1) * cols)
    let low = values[from]!
    let high = low
    for (let i = from + 1; i < to; i++) {
      const w = values[i]!
      if (w < low) low = w
      else if (w > high) high = w
    }
    pairs[2 * at] = (high - low) / 15
    pairs[2 * at + 1] = low
    // What the device will reckon with, after rounding.
    const [scale, base] = [pairs[2 * at]!, pairs[2 * at + 1]!]
    if (scale === 0) continue
    const inverse = 1 / scale
    let word = 0
    for (let i = from; i < to; i++) {
      const nearest = ((values[i]! - base) * inverse + 0.5) | 0
      const step = nearest < 0 ? 0 : nearest > 15 ? 15 : nearest
      const place = (i - from) & 7
      word |= step << (4 * place)
      if (place === 7 || i === to - 1) {
        data[at * 4 + ((i - from) >> 3)] = word
        word = 0
      }
    }
  }
  return { data, scales }
}

const none = new Uint32Array(0)

/** Packs `values` [rows, cols] for a matrix of this storage. Numbers must be finite and, for 16-bit floats and int4, within ±65504. */
export const packRows = (
  storage: Storage,
  values: Float32Array<ArrayBuffer>,
  rows: number,
  cols: number
): PackedRows => {
  switch (storage) {
    case "f32":
      return { data: new Uint32Array(values.buffer, values.byteOffset, values.length), scales: none }
    case "f16":
      return { data: packF16(values, rows, cols, strideOf(storage, cols)), scales: none }
    case "f16_tiles": {
      const stride = strideOf(storage, cols)
      return { data: tileF16(packF16(values, rows, cols, stride), rows, stride), scales: none }
    }
    case "int8":
      return packInt8(values, rows, cols)
    case "int4":
      return packInt4(values, rows, cols)
  }
}

/** Bytes that `rows` rows take on the device. */
export const matrixBytes = (storage: Storage, rows: number, cols: number): number => {
  const { data, scales } = wordsOf(storage, rows, cols)
  return 4 * (data + scales)
}

/** Bits a weight of this storage takes, padding aside. */
export const bitsPerWeight = (storage: Storage): number =>
  32 / storageLayout[storage].perWord + (storage === "int4" ? 32 / int4Block : 0)

/**
 * Uploads packed rows `first … first + rows - 1` of the matrix, into whichever of its parts they lie. Tiles go in whole bands: `first` is a
 * multiple of 16, and so is `rows` unless they are the matrix's last.
 */
export const writeRows = Effect.fnUntraced(function* (matrix: Matrix, first: number, rows: number, packed: PackedRows) {
  const gpu = yield* Gpu
  const whole = (row: number) => rowsHeld(matrix.storage, row) === row
  if (!whole(first) || (!whole(first + rows) && first + rows < matrix.rows)) {
    const detail = `rows ${first} to ${first + rows} of ${matrix.label} are not whole bands of ${tileSide}, as ${matrix.storage} needs`
    return yield* gpuError(new InvalidDispatch({ kernel: "writeRows", detail }))
  }
  const words = {
    data: matrix.stride / storageLayout[matrix.storage].perWord,
    scales: wordsOf(matrix.storage, 1, matrix.cols).scales
  }
  for (const part of matrix.parts) {
    const [from, to] = [Math.max(first, part.first), Math.min(first + rows, part.first + part.rows)]
    if (from >= to) continue
    // Uploads may start at any word; windows for kernels may not, so these are not made with `window`.
    const slice = (all: Uint32Array<ArrayBuffer>, perRow: number) =>
      all.subarray((from - first) * perRow, (from - first + rowsHeld(part.storage, to - from)) * perRow)
    const at = (offset: number, perRow: number) => offset + (from - part.first) * perRow
    const floats = (bits: Uint32Array<ArrayBuffer>) => new Float32Array(bits.buffer, bits.byteOffset, bits.length)
    const data = slice(packed.data, words.data)
    if (part.storage === "f32")
      yield* gpu.write({ ...part.data, offset: at(part.data.offset, words.data), length: data.length }, floats(data))
    else {
      yield* gpu.write({ ...part.data, offset: at(part.data.offset, words.data), length: data.length }, data)
      if (!("scales" in part)) continue
      const scales = slice(packed.scales, words.scales)
      const offset = at(part.scales.offset, words.scales)
      if (part.storage === "int8") yield* gpu.write({ ...part.scales, offset, length: scales.length }, floats(scales))
      else yield* gpu.write({ ...part.scales, offset, length: scales.length }, scales)
    }
  }
})
