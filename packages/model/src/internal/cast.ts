/** Stored floats to doubles and back, each rounded once, to nearest, ties to even. */
import { decodeBf16, decodeF16, encodeBf16, encodeF16, roundToOdd } from "./half.ts"
import type { Dtype } from "./safetensors-header.ts"

export type FloatDtype = "F64" | "F32" | "F16" | "BF16"

export const isFloat = (dtype: Dtype): dtype is FloatDtype =>
  dtype === "F64" || dtype === "F32" || dtype === "F16" || dtype === "BF16"

/** Exact. `bytes` is the whole of its buffer. */
export const toDoubles = (dtype: FloatDtype, bytes: Uint8Array<ArrayBuffer>): Float64Array => {
  if (dtype === "F64") return new Float64Array(bytes.buffer)
  if (dtype === "F32") return new Float64Array(new Float32Array(bytes.buffer))
  const halves = new Uint16Array(bytes.buffer)
  const singles = new Float32Array(halves.length)
  if (dtype === "F16") decodeF16(halves, singles)
  else decodeBf16(halves, singles)
  return new Float64Array(singles)
}

export const fromDoubles = (dtype: FloatDtype, values: Float64Array): Uint8Array => {
  const stored =
    dtype === "F64"
      ? values
      : dtype === "F32"
        ? new Float32Array(values)
        : dtype === "F16"
          ? encodeF16(roundToOdd(values))
          : encodeBf16(roundToOdd(values))
  return new Uint8Array(stored.buffer, stored.byteOffset, stored.byteLength)
}

/** The first value that is not finite or becomes infinite in `dtype`; -1 when there is none. */
export const firstNotFinite = (dtype: FloatDtype, values: Float64Array): number => {
  // half an ulp above the largest finite number, from where on rounding gives infinity
  const limit =
    dtype === "F16"
      ? 65_520
      : dtype === "BF16"
        ? (2 - 2 ** -8) * 2 ** 127
        : dtype === "F32"
          ? (2 - 2 ** -24) * 2 ** 127
          : Number.POSITIVE_INFINITY
  return values.findIndex((x) => !(Math.abs(x) < limit))
}
