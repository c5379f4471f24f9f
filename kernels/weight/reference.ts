/** What packed weight matrices stand for, in double precision. */

const half = (bits: number): number => {
  const [sign, exponent, fraction] = [bits >> 15 ? -1 : 1, (bits >> 10) & 31, bits & 1023]
  if (exponent === 31) return fraction === 0 ? sign * Number.POSITIVE_INFINITY : Number.NaN
  return exponent === 0 ? sign * fraction * 2 ** -24 : sign * (1024 + fraction) * 2 ** (exponent - 25)
}

/** The numbers [rows, cols] that words of 16-bit floats hold. */
export const unpackF16 = (data: Uint32Array, rows: number, cols: number, stride: number): Float64Array =>
  Float64Array.from({ length: rows * cols }, (_, i) => {
    const at = Math.floor(i / cols) * stride + (i % cols)
    return half(((data[at >> 1] ?? 0) >>> ((at & 1) * 16)) & 0xffff)
  })

/** The numbers [rows, cols] that 16-bit floats in tiles of 16 x 16 hold; `stride` is a multiple of 16. */
export const unpackF16Tiles = (data: Uint32Array, rows: number, cols: number, stride: number): Float64Array =>
  Float64Array.from({ length: rows * cols }, (_, i) => {
    const [row, col] = [Math.floor(i / cols), i % cols]
    const tile = Math.floor(row / 16) * (stride / 16) + Math.floor(col / 16)
    const at = tile * 256 + (row % 16) * 16 + (col % 16)
    return half(((data[at >> 1] ?? 0) >>> ((at & 1) * 16)) & 0xffff)
  })

/** The numbers that signed bytes and a scale a row stand for. */
export const unpackInt8 = (
  data: Uint32Array,
  scales: ArrayLike<number>,
  rows: number,
  cols: number,
  stride: number
): Float64Array =>
  Float64Array.from({ length: rows * cols }, (_, i) => {
    const row = Math.floor(i / cols)
    const at = row * stride + (i % cols)
    const byte = ((data[at >> 2] ?? 0) >>> ((at & 3) * 8)) & 0xff
    return (byte > 127 ? byte - 256 : byte) * (scales[row] ?? 0)
  })

/** The numbers that 4-bit steps and a scale and a lowest value for each 32 of them stand for. */
export const unpackInt4 = (
  data: Uint32Array,
  scales: Uint32Array,
  rows: number,
  cols: number,
  stride: number
): Float64Array =>
  Float64Array.from({ length: rows * cols }, (_, i) => {
    const at = Math.floor(i / cols) * stride + (i % cols)
    const step = ((data[at >> 3] ?? 0) >>> ((at & 7) * 4)) & 15
    const block = scales[Math.floor(at / 32)] ?? 0
    return step * half(block & 0xffff) + half(block >>> 16)
  })
