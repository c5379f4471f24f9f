/**
 * Writing safetensors: wider dtypes first, then by name (what the reference implementation does, so equal tensors give
 * equal bytes), header padded with spaces to 8 bytes, `{"format":"pt"}` as metadata, atomic. NaN and infinities are
 * refused before anything is written, unless the caller asks for them.
 */
import { Effect } from "effect"
import { writeAtomic } from "./internal/files.ts"
import { encodeBf16, encodeF16 } from "./internal/half.ts"
import { elementBytes, maxHeaderBytes } from "./internal/safetensors-header.ts"
import { ModelError, quote } from "./ModelError.ts"
import { requireFinite } from "./Safetensors.ts"

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
  yield* writeAtomic("write safetensors", path, yield* encodeSafetensors(path, tensors, options))
})

/** The file's bytes as a list of chunks; `path` only names the file in messages. */
export const encodeSafetensors = Effect.fnUntraced(function* (
  path: string,
  tensors: Iterable<TensorToWrite>,
  options: WriteOptions = {}
) {
  const during = "write safetensors"
  const sorted = [...tensors]
    .map((tensor) => ({ ...tensor, dtype: tensor.dtype ?? options.dtype ?? ("F32" as const) }))
    .sort((a, b) => elementBytes[b.dtype] - elementBytes[a.dtype] || (a.name < b.name ? -1 : a.name > b.name ? 1 : 0))
  const entries: Array<string> = []
  const chunks: Array<Uint8Array> = []
  const metadata = Object.entries(options.metadata ?? { format: "pt" }).sort(([a], [b]) => (a < b ? -1 : 1))
  if (metadata.length > 0) {
    entries.push(
      `"__metadata__":{${metadata.map(([key, value]) => `${JSON.stringify(key)}:${JSON.stringify(value)}`).join(",")}}`
    )
  }
  const seen = new Set(["__metadata__"])
  let position = 0
  for (const { name, shape, data, dtype } of sorted) {
    if (seen.has(name)) {
      return yield* ModelError.invalid({
        operation: during,
        file: path,
        tensor: name,
        message: `${path}: the tensor name ${quote(name)} is used twice`
      })
    }
    seen.add(name)
    if (shape.reduce((product, size) => product * size, 1) !== data.length) {
      return yield* ModelError.shape({
        operation: during,
        file: path,
        tensor: name,
        expected: shape,
        actual: [data.length]
      })
    }
    if (options.allowNonFinite !== true) yield* requireFinite(during, name, data)
    const stored = narrow(dtype, data)
    if (options.allowNonFinite !== true && dtype !== "F32") yield* requireInRange(name, dtype, stored)
    const bytes = new Uint8Array(stored.buffer, stored.byteOffset, stored.byteLength)
    const end = position + bytes.length
    entries.push(
      `${JSON.stringify(name)}:{"dtype":"${dtype}","shape":[${shape.join(",")}],"data_offsets":[${position},${end}]}`
    )
    chunks.push(bytes)
    position = end
  }
  const json = new TextEncoder().encode(`{${entries.join(",")}}`)
  const padded = Math.ceil(json.length / 8) * 8
  if (padded > maxHeaderBytes) {
    return yield* ModelError.invalid({
      operation: during,
      file: path,
      message: `${path}: the header would take ${padded} bytes, the limit is ${maxHeaderBytes}; write fewer tensors or less metadata`
    })
  }
  const head = new Uint8Array(8 + padded).fill(0x20)
  new DataView(head.buffer).setBigUint64(0, BigInt(padded), true)
  head.set(json, 8)
  return [head, ...chunks]
})

const narrow = (dtype: StoredDtype, data: Float32Array): Float32Array | Uint16Array =>
  dtype === "F32" ? data : dtype === "F16" ? encodeF16(data) : encodeBf16(data)

/** A finite f32 may overflow a 16-bit format: an all-ones exponent in the stored bits. */
const requireInRange = (
  tensor: string,
  dtype: StoredDtype,
  stored: Float32Array | Uint16Array
): Effect.Effect<void, ModelError> => {
  const exponent = dtype === "F16" ? 0x7c00 : 0x7f80
  for (let index = 0; index < stored.length; index++) {
    if ((stored[index]! & exponent) === exponent) {
      return Effect.fail(
        ModelError.notFinite({
          operation: "write safetensors",
          tensor,
          index,
          message: `write safetensors: tensor ${quote(tensor)} at index ${index} is too large for ${dtype}; store it as F32`
        })
      )
    }
  }
  return Effect.void
}
