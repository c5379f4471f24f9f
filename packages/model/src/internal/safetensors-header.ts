/**
 * The safetensors header, checked completely before a byte of data is read or an array is made: an 8-byte
 * little-endian length (at most 100 MB), then JSON that maps each name to dtype, shape and a half-open byte range of
 * the data part. Ranges must tile the data part without gap or overlap, and their lengths must follow from the shapes.
 */
import { Effect } from "effect"
import { ModelError, quote } from "../ModelError.ts"
import { duplicateKey } from "./duplicate-key.ts"
import { decodeUtf8, isRecord, parseJsonObject } from "./files.ts"

export const elementBytes = {
  F64: 8,
  F32: 4,
  F16: 2,
  BF16: 2,
  I64: 8,
  I32: 4,
  I16: 2,
  I8: 1,
  U64: 8,
  U32: 4,
  U16: 2,
  U8: 1,
  BOOL: 1,
  F8_E4M3: 1,
  F8_E5M2: 1,
  F8_E4M3FNUZ: 1,
  F8_E5M2FNUZ: 1,
  F8_E8M0: 1,
  C64: 8
} as const
export type Dtype = keyof typeof elementBytes

const isDtype = (value: unknown): value is Dtype => typeof value === "string" && Object.hasOwn(elementBytes, value)

export interface TensorInfo {
  readonly name: string
  readonly dtype: Dtype
  readonly shape: ReadonlyArray<number>
  /** Product of the shape; 1 for a scalar. */
  readonly elements: number
  /** Absolute byte offset in the file. */
  readonly offset: number
  readonly bytes: number
}

export interface Header {
  readonly metadata: ReadonlyMap<string, string>
  readonly tensors: ReadonlyMap<string, TensorInfo>
}

export const maxHeaderBytes = 100_000_000
const operation = "read safetensors"

const malformed = (file: string, what: string, tensor?: string): ModelError =>
  ModelError.malformed({
    operation,
    file,
    ...(tensor === undefined ? {} : { tensor }),
    message: `${file}: ${tensor === undefined ? "" : `tensor ${quote(tensor)}: `}${what}; the file is damaged or not safetensors, fetch or write it again`
  })

/** The header's length from the first 8 bytes, checked against the file's size. */
export const headerLength = (
  file: string,
  prefix: Uint8Array,
  fileBytes: number
): Effect.Effect<number, ModelError> => {
  if (prefix.length < 8) return Effect.fail(malformed(file, `only ${prefix.length} bytes, a header needs at least 10`))
  const length = new DataView(prefix.buffer, prefix.byteOffset, 8).getBigUint64(0, true)
  if (length > BigInt(maxHeaderBytes)) {
    return Effect.fail(malformed(file, `claims a header of ${length} bytes, the limit is ${maxHeaderBytes}`))
  }
  if (length < 2n) return Effect.fail(malformed(file, `claims a header of ${length} bytes`))
  if (8 + Number(length) > fileBytes) {
    return Effect.fail(malformed(file, `claims a header of ${length} bytes but has ${fileBytes} bytes in all`))
  }
  return Effect.succeed(Number(length))
}

export const parseHeader = Effect.fnUntraced(function* (file: string, bytes: Uint8Array, fileBytes: number) {
  if (bytes[0] !== 0x7b) return yield* malformed(file, "the header does not start with {")
  const text = yield* decodeUtf8(operation, file, bytes)
  const twice = duplicateKey(text, 6)
  if (twice !== undefined) return yield* malformed(file, `bad header: ${twice}`)
  const raw = yield* parseJsonObject(operation, file, text)
  const metadata = new Map<string, string>()
  const tensors: Array<TensorInfo> = []
  const dataStart = 8 + bytes.length
  for (const [name, entry] of Object.entries(raw)) {
    if (name === "__metadata__") {
      if (!isRecord(entry)) return yield* malformed(file, "__metadata__ is not an object of strings")
      for (const [key, value] of Object.entries(entry)) {
        if (typeof value !== "string") return yield* malformed(file, "__metadata__ is not an object of strings")
        metadata.set(key, value)
      }
    } else {
      tensors.push(yield* tensorInfo(file, name, entry, dataStart))
    }
  }
  tensors.sort((a, b) => a.offset - b.offset || a.bytes - b.bytes)
  let position = dataStart
  for (const tensor of tensors) {
    if (tensor.offset !== position) {
      const how = tensor.offset < position ? "overlaps the tensor before it" : "leaves a gap before it"
      return yield* malformed(file, `its range at byte ${tensor.offset} ${how} (expected ${position})`, tensor.name)
    }
    position += tensor.bytes
    if (position > fileBytes) {
      return yield* malformed(
        file,
        `ends at byte ${position}, the file has only ${fileBytes} (truncated?)`,
        tensor.name
      )
    }
  }
  if (position !== fileBytes) {
    return yield* malformed(file, `${fileBytes - position} bytes behind the last tensor belong to nothing`)
  }
  const header: Header = { metadata, tensors: new Map(tensors.map((tensor) => [tensor.name, tensor])) }
  return header
})

const isCount = (value: unknown): value is number =>
  typeof value === "number" && Number.isSafeInteger(value) && value >= 0

const tensorInfo = Effect.fnUntraced(function* (file: string, name: string, entry: unknown, dataStart: number) {
  if (!isRecord(entry)) return yield* malformed(file, "its entry is not an object", name)
  const { dtype, shape, data_offsets: offsets } = entry
  if (!isDtype(dtype)) return yield* malformed(file, `unknown dtype ${quote(String(dtype))}`, name)
  if (!Array.isArray(shape) || shape.length > 16 || !shape.every(isCount)) {
    return yield* malformed(file, "its shape is not a list of at most 16 counts", name)
  }
  if (!Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(isCount)) {
    return yield* malformed(file, "its data_offsets are not two counts", name)
  }
  const sizes: ReadonlyArray<number> = shape
  const begin = Number(offsets[0])
  const end = Number(offsets[1])
  if (end < begin) return yield* malformed(file, `its range ${begin}..${end} runs backwards`, name)
  const elements = sizes.reduce((product, size) => product * size, 1)
  if (elements * elementBytes[dtype] !== end - begin) {
    return yield* malformed(
      file,
      `shape [${sizes.join(", ")}] of ${dtype} needs ${elements * elementBytes[dtype]} bytes, its range has ${end - begin}`,
      name
    )
  }
  const info: TensorInfo = { name, dtype, shape: sizes, elements, offset: dataStart + begin, bytes: end - begin }
  return info
})
