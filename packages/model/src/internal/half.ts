/**
 * The 16-bit float formats, bit by bit: F16 (IEEE half) and BF16 (the upper half of an f32). Narrowing rounds to
 * nearest, ties to even; subnormals, infinities and NaN survive (a NaN stays a NaN, its payload may be cut).
 * Little-endian hosts only, like every platform that Node and Dawn run on.
 */

/** One f16 bit pattern to the f32 bit pattern of the same number. */
const widenF16Bits = (half: number): number => {
  const sign = (half & 0x8000) << 16
  const exponent = (half >>> 10) & 0x1f
  let mantissa = half & 0x3ff
  if (exponent === 0x1f) return (sign | 0x7f800000 | (mantissa << 13)) >>> 0
  if (exponent !== 0) return (sign | ((exponent + 112) << 23) | (mantissa << 13)) >>> 0
  if (mantissa === 0) return sign >>> 0
  // subnormal: shift until the hidden bit appears
  let shift = 0
  while ((mantissa & 0x400) === 0) {
    mantissa <<= 1
    shift++
  }
  return (sign | ((113 - shift) << 23) | ((mantissa & 0x3ff) << 13)) >>> 0
}

const narrowF16Bits = (bits: number): number => {
  const sign = (bits >>> 16) & 0x8000
  const magnitude = bits & 0x7fffffff
  if (magnitude > 0x7f800000) return sign | 0x7e00 | ((magnitude >>> 13) & 0x3ff)
  // 65520 and above round to infinity
  if (magnitude >= 0x477ff000) return sign | 0x7c00
  if (magnitude >= 0x38800000) {
    const rounded = magnitude + 0xfff + ((magnitude >>> 13) & 1)
    return sign | ((rounded - 0x38000000) >>> 13)
  }
  // below 2^-25 (or exactly there, a tie to even) rounds to zero
  if (magnitude <= 0x33000000) return sign
  // subnormal: units of 2^-24
  const shift = 126 - (magnitude >>> 23)
  const mantissa = (magnitude & 0x7fffff) | 0x800000
  const kept = mantissa >>> shift
  const rest = mantissa & ((1 << shift) - 1)
  const half = 1 << (shift - 1)
  return sign | (rest > half || (rest === half && (kept & 1) === 1) ? kept + 1 : kept)
}

const narrowBf16Bits = (bits: number): number =>
  (bits & 0x7fffffff) > 0x7f800000 ? (bits >>> 16) | 0x40 : ((bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16) & 0xffff

let widened: Uint32Array | undefined

/** All 65,536 halves, widened once on first use (256 KiB). */
const f16Table = (): Uint32Array => {
  if (widened === undefined) {
    widened = new Uint32Array(65_536)
    for (let half = 0; half < 65_536; half++) widened[half] = widenF16Bits(half)
  }
  return widened
}

/** Widens into `target` from index `at`; `source` holds f16 bit patterns. */
export const decodeF16 = (source: Uint16Array, target: Float32Array, at = 0): void => {
  const table = f16Table()
  const bits = new Uint32Array(target.buffer, target.byteOffset, target.length)
  for (let i = 0; i < source.length; i++) bits[at + i] = table[source[i]!]!
}

export const decodeBf16 = (source: Uint16Array, target: Float32Array, at = 0): void => {
  const bits = new Uint32Array(target.buffer, target.byteOffset, target.length)
  for (let i = 0; i < source.length; i++) bits[at + i] = source[i]! << 16
}

export const encodeF16 = (source: Float32Array): Uint16Array => {
  const bits = new Uint32Array(source.buffer, source.byteOffset, source.length)
  const target = new Uint16Array(source.length)
  for (let i = 0; i < bits.length; i++) target[i] = narrowF16Bits(bits[i]!)
  return target
}

export const encodeBf16 = (source: Float32Array): Uint16Array => {
  const bits = new Uint32Array(source.buffer, source.byteOffset, source.length)
  const target = new Uint16Array(source.length)
  for (let i = 0; i < bits.length; i++) target[i] = narrowBf16Bits(bits[i]!)
  return target
}

/**
 * Rounds to f32 such that a further rounding to 16 bits rounds the original number correctly: an f32 that may be a tie
 * between two 16-bit numbers, but is not the number itself, is cut off with the last bit set (round to odd, Boldo and
 * Melquiond 2008). Elsewhere the nearest f32 lies on the same side of every tie as the number. Lengths are equal.
 */
export const roundForHalf = (source: Float64Array, target: Float32Array): void => {
  target.set(source)
  const bits = new Uint32Array(target.buffer, target.byteOffset, target.length)
  for (let i = 0; i < bits.length; i++) {
    if ((bits[i]! & 0xfff) !== 0) continue
    const exact = source[i]!
    const near = target[i]!
    if (near === exact || Number.isNaN(exact)) continue
    bits[i] = (Math.abs(near) > Math.abs(exact) ? bits[i]! - 1 : bits[i]!) | 1
  }
}
