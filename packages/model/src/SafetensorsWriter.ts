/**
 * Writing safetensors: wider dtypes first, then by name (what the reference implementation does, so equal tensors give
 * equal bytes), header padded with spaces to 8 bytes, `{"format":"pt"}` as metadata, atomic. NaN and infinities are
 * refused before anything is written, unless the caller asks for them.
 */
import { Effect } from "effect"
import { writeAtomic } from "./internal/files.ts"
import { encodeBf16, encodeF16 } from "./internal/half.ts"
import { byWidthAndName, elementsOf, encodeHeader } from "./internal/safetensors-layout.ts"
import { ModelError, quote } from "./ModelError.ts"
import { requireFinite } from "./Safetensors.ts"

const operation = "write safetensors"

export type StoredDtype = "F32" | "F16" | "BF16"

/** A tensor to be written: row-major f32 data of `shape`, stored as `dtype` (default: the file's). */
export interface TensorToWrite {
  readonly name: string
  readonly shape: ReadonlyArray<number>
  readonly data: Float32Array
  readonly dtype?: StoredDtype
}

export interface WriteOptions {
  readonly dtype?: StoredDtype
  readonly metadata?: Readonly<Record<string, string>>
  /** Let NaN and infinities through (default false: they are an error, nothing is written). */
  readonly allowNonFinite?: boolean
}

/** Writes one file atomically. Names must be unique; data lengths must follow from the shapes. */
export const writeSafetensors = Effect.fn("Safetensors.write")(function* (
  path: string,
  tensors: Iterable<TensorToWrite>,
  options: WriteOptions = {}
) {
  yield* writeAtomic(operation, path, yield* encodeSafetensors(path, tensors, options))
})

/** The file's bytes as a list of chunks; `path` only names the file in messages. */
export const encodeSafetensors = Effect.fnUntraced(function* (
  path: string,
  tensors: Iterable<TensorToWrite>,
  options: WriteOptions = {}
) {
  const sorted = [...tensors]
    .map((tensor) => ({ ...tensor, dtype: tensor.dtype ?? options.dtype ?? ("F32" as const) }))
    .sort(byWidthAndName)
  const head = yield* encodeHeader(path, sorted, options.metadata)
  const chunks: Array<Uint8Array> = [head]
  for (const { name, shape, data, dtype } of sorted) {
    if (elementsOf(shape) !== data.length) {
      return yield* ModelError.shape({ operation, file: path, tensor: name, expected: shape, actual: [data.length] })
    }
    if (options.allowNonFinite !== true) yield* requireFinite(operation, name, data)
    const stored = narrow(dtype, data)
    if (options.allowNonFinite !== true && dtype !== "F32") yield* requireInRange(name, dtype, stored)
    chunks.push(new Uint8Array(stored.buffer, stored.byteOffset, stored.byteLength))
  }
  return chunks
})

const narrow = (dtype: StoredDtype, data: Float32Array): Float32Array | Uint16Array =>
  dtype === "F32" ? data : dtype === "F16" ? encodeF16(data) : encodeBf16(data)

/** A finite f32 may overflow a 16-bit format: an all-ones exponent in the stored bits. `first` is where `stored` starts. */
export const requireInRange = (
  tensor: string,
  dtype: StoredDtype,
  stored: Float32Array | Uint16Array,
  first = 0
): Effect.Effect<void, ModelError> => {
  const exponent = dtype === "F16" ? 0x7c00 : 0x7f80
  for (let index = 0; index < stored.length; index++) {
    if ((stored[index]! & exponent) === exponent) {
      return Effect.fail(
        ModelError.notFinite({
          operation,
          tensor,
          index: first + index,
          message: `${operation}: tensor ${quote(tensor)} at index ${first + index} is too large for ${dtype}; store it as F32`
        })
      )
    }
  }
  return Effect.void
}
