/** Stored floats to doubles and back, each rounded once, to nearest, ties to even. */
import { decodeBf16, decodeF16, encodeBf16, encodeF16, roundForHalf } from "./half.ts"
import type { Dtype } from "./safetensors-header.ts"

export type FloatDtype = "F64" | "F32" | "F16" | "BF16"

export const isFloat = (dtype: Dtype): dtype is FloatDtype =>
  dtype === "F64" || dtype === "F32" || dtype === "F16" || dtype === "BF16"

/** Room for one piece of a tensor on its way through double precision; used again for the next piece. */
export interface Scratch {
  readonly doubles: Float64Array
  readonly singles: Float32Array
}

export const makeScratch = (elements: number): Scratch => ({
  doubles: new Float64Array(elements),
  singles: new Float32Array(elements)
})

/** Exact. `bytes` is the whole of its buffer; the result is a window of the scratch. */
export const toDoubles = (dtype: FloatDtype, bytes: Uint8Array<ArrayBuffer>, scratch: Scratch): Float64Array => {
  const put = (values: Float64Array | Float32Array): Float64Array => {
    scratch.doubles.set(values)
    return scratch.doubles.subarray(0, values.length)
  }
  if (dtype === "F64") return put(new Float64Array(bytes.buffer))
  if (dtype === "F32") return put(new Float32Array(bytes.buffer))
  const halves = new Uint16Array(bytes.buffer)
  const singles = scratch.singles.subarray(0, halves.length)
  if (dtype === "F16") decodeF16(halves, singles)
  else decodeBf16(halves, singles)
  return put(singles)
}

/** The stored bytes of `values`, in part a window of the scratch: valid until it is used again. */
export const fromDoubles = (dtype: FloatDtype, values: Float64Array, scratch: Scratch): Uint8Array => {
  if (dtype === "F64") return bytesOf(values)
  const singles = scratch.singles.subarray(0, values.length)
  if (dtype === "F32") {
    singles.set(values)
    return bytesOf(singles)
  }
  roundForHalf(values, singles)
  return bytesOf(dtype === "F16" ? encodeF16(singles) : encodeBf16(singles))
}

const bytesOf = (values: Float64Array | Float32Array | Uint16Array): Uint8Array =>
  new Uint8Array(values.buffer, values.byteOffset, values.byteLength)

/** Half an ulp above the largest finite number: from there on rounding gives infinity. */
const limits: Readonly<Record<FloatDtype, number>> = {
  F64: Number.POSITIVE_INFINITY,
  F32: (2 - 2 ** -24) * 2 ** 127,
  F16: 65_520,
  BF16: (2 - 2 ** -8) * 2 ** 127
}

/** The first value that is not finite or becomes infinite in `dtype`; -1 when there is none. */
export const firstNotFinite = (dtype: FloatDtype, values: Float64Array): number => {
  const limit = limits[dtype]
  for (let i = 0; i < values.length; i++) {
    const value = values[i]!
    if (!(value < limit && value > -limit)) return i
  }
  return -1
}
