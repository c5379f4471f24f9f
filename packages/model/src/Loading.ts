/**
 * Weights from a checkpoint onto the device: which storage each matrix takes, its allocation, and a stream of row pieces
 * from the file through a conversion to the device, so that the host never holds more than a few pieces of any tensor.
 *
 * Embedding and head are never quantised; norms and biases are always f32. A number that the chosen storage cannot hold
 * (NaN, an infinity, beyond 65,504 for 16 bits) is an error that names the tensor; nothing is clipped.
 */
import {
  allocMatrix,
  Gpu,
  type GpuError,
  type HeldIn16,
  type Matrix,
  type PackedRows,
  packRows,
  type Storage,
  strideOf,
  type Tensor,
  tileF16,
  tileSide,
  writeRows
} from "@srcode/gpu"
import { Effect, type Scope } from "effect"
import type { ModelConfig } from "./Config.ts"
import { decodeBf16, decodeF16 } from "./internal/half.ts"
import { ModelError, quote } from "./ModelError.ts"
import { type Dtype, missingTensor, requireFinite, type SafetensorsFile, type TensorInfo } from "./Safetensors.ts"
import { assembleWeights, type WeightPart, type Weights, weightParts } from "./Weights.ts"

/** `auto`: 32 bits for a checkpoint of 32 bits; for one of 16 bits, 16 where the device computes with them, else 32. */
export type DtypeChoice = "auto" | "f32" | "f16"

/** How the frozen linear layers are held: as `dtype` says, one scale a row, or 4 bits in blocks of 32. */
export type Quantization = "none" | "int8" | "int4"

export const dtypeChoices: ReadonlyArray<DtypeChoice> = ["auto", "f32", "f16"]
export const quantizations: ReadonlyArray<Quantization> = ["none", "int8", "int4"]

/** Storage of the linear layers, and of embedding and head. Layers in tiles (`f16_tiles`) bring a head of its own weights along. */
export interface Precision {
  readonly linear: Storage
  readonly table: "f32" | "f16"
}

const operation = "load weights"

const widths: Readonly<Partial<Record<Dtype, number>>> = { F64: 8, F32: 4, F16: 2, BF16: 2 }

const sourceOf = (file: SafetensorsFile, name: string): Effect.Effect<TensorInfo, ModelError> => {
  const info = file.tensors.get(name)
  return info === undefined ? Effect.fail(missingTensor(file.path, name, file.tensors)) : Effect.succeed(info)
}

/** What `dtype` and `quantize` mean for this checkpoint on a device with these features, which holds 16 bits best as `weights16` says. */
export const choosePrecision = (
  config: ModelConfig,
  file: SafetensorsFile,
  features: ReadonlyArray<string>,
  options: { readonly dtype: DtypeChoice; readonly quantize: Quantization; readonly weights16?: HeldIn16 | undefined }
): Precision => {
  const wide = weightParts(config).some(
    (part) =>
      part.kind !== "vector" &&
      part.sources.some(({ name }) => (widths[file.tensors.get(name)?.dtype ?? "F32"] ?? 4) > 2)
  )
  const table = options.dtype === "auto" ? (!wide && features.includes("shader-f16") ? "f16" : "f32") : options.dtype
  const plain = table === "f16" ? (options.weights16 ?? "f16") : table
  return { table, linear: options.quantize === "none" ? plain : options.quantize }
}

/** Storage of one part. Tiles are uploaded in whole bands, so tensors of other heights that share a matrix keep it in rows. */
export const storageOf = ({ key, kind, sources }: WeightPart, { linear, table }: Precision): Storage => {
  if (kind !== "linear" && (key === "embed" || linear !== "f16_tiles")) return table
  const bands = sources.slice(0, -1).every(({ shape }) => (shape[0] ?? 0) % tileSide === 0)
  return linear === "f16_tiles" && !bands ? "f16" : linear
}

/** Weights allocated, and where each part of the checkpoint goes. */
export interface AllocatedWeights {
  readonly weights: Weights
  readonly matrices: ReadonlyMap<string, Matrix>
  readonly vectors: ReadonlyMap<string, Tensor<"f32">>
}

/** Device memory for all weights, zeroed. Freed with the Scope. */
export const allocWeights = (
  config: ModelConfig,
  precision: Precision
): Effect.Effect<AllocatedWeights, GpuError | ModelError, Gpu | Scope.Scope> =>
  Effect.gen(function* () {
    const gpu = yield* Gpu
    const matrices = new Map<string, Matrix>()
    const vectors = new Map<string, Tensor<"f32">>()
    for (const part of weightParts(config)) {
      const label = `weights.${part.key}`
      if (part.kind === "vector") vectors.set(part.key, yield* gpu.alloc(label, "f32", part.length))
      else matrices.set(part.key, yield* allocMatrix(label, storageOf(part, precision), part.rows, part.cols))
    }
    const [someMatrix] = matrices.values()
    const [someVector] = vectors.values()
    if (someMatrix === undefined || someVector === undefined) {
      return yield* ModelError.invalid({ operation, message: "the model has no weights" })
    }
    const weights = assembleWeights(
      config,
      (key) => matrices.get(key) ?? someMatrix,
      (key) => vectors.get(key) ?? someVector
    )
    return { weights, matrices, vectors }
  })

/** Stored bytes of a piece; a piece is whole rows, at least one. */
const pieceBytes = 8 * 1024 * 1024
/** Uploaded bytes after which the host waits for the device, which frees the staging memory of finished uploads. */
const uploadWindow = 64 * 1024 * 1024

/** Streams the checkpoint into allocated weights. `onProgress` hears of stored bytes, done and in all. */
export const fillWeights = Effect.fn("Loading.fill")(function* (
  config: ModelConfig,
  file: SafetensorsFile,
  into: AllocatedWeights,
  onProgress: (done: number, total: number) => Effect.Effect<void> = () => Effect.void
) {
  const gpu = yield* Gpu
  const parts = weightParts(config)
  let total = 0
  for (const { name } of parts.flatMap((part) => part.sources)) total += (yield* sourceOf(file, name)).bytes
  let done = 0
  let waiting = 0
  const advance = Effect.fnUntraced(function* (bytes: number) {
    done += bytes
    waiting += bytes
    if (waiting >= uploadWindow) {
      yield* gpu.idle
      waiting = 0
    }
    yield* onProgress(done, total)
  })
  for (const part of parts) {
    const vector = into.vectors.get(part.key)
    if (vector !== undefined) yield* gpu.write(vector, yield* readVector(file, part))
    const matrix = into.matrices.get(part.key)
    let row = 0
    for (const { name, shape } of part.sources) {
      const info = yield* sourceOf(file, name)
      if (matrix === undefined) {
        yield* advance(info.bytes)
        continue
      }
      const [rows = 0, cols = 1] = shape
      const width = (widths[info.dtype] ?? 4) * cols
      const band = matrix.storage === "f16_tiles" ? tileSide : 1
      const step = Math.max(band, Math.floor(pieceBytes / width / band) * band)
      for (let from = 0; from < rows; from += step) {
        const count = Math.min(step, rows - from)
        const raw = yield* file.readRaw(name, from * cols, count * cols)
        const packed = yield* packPiece(file.path, info, matrix.storage, raw, count, cols, from)
        yield* writeRows(matrix, row + from, count, packed)
        yield* advance(count * width)
      }
      row += rows
    }
  }
  yield* gpu.idle
})

const readVector = Effect.fnUntraced(function* (file: SafetensorsFile, part: WeightPart) {
  const data = new Float32Array(part.length)
  let at = 0
  for (const { name, shape } of part.sources) {
    const values = yield* file.readShape(name, shape)
    yield* requireFinite(operation, name, values)
    data.set(values, at)
    at += values.length
  }
  return data
})

/** Rows `from … from + rows - 1` of a tensor into the words of its storage. */
const packPiece = Effect.fnUntraced(function* (
  path: string,
  info: TensorInfo,
  storage: Storage,
  raw: Uint8Array<ArrayBuffer>,
  rows: number,
  cols: number,
  from: number
): Effect.fn.Return<PackedRows, ModelError> {
  const inHalves = storage === "f16" || storage === "f16_tiles"
  const direct = inHalves && strideOf(storage, cols) === cols && (info.dtype === "F16" || info.dtype === "BF16")
  if (direct) {
    const halves = new Uint16Array(raw.buffer)
    const bad = info.dtype === "BF16" ? narrowBf16(halves) : halves.findIndex((h) => (h & 0x7c00) === 0x7c00)
    if (bad >= 0) {
      const value = new Float32Array(1)
      if (info.dtype === "BF16") decodeBf16(bfloatAt(raw, bad), value)
      else decodeF16(halves.slice(bad, bad + 1), value)
      return yield* outOfRange(path, info, storage, value[0] ?? Number.NaN, from * cols + bad)
    }
    const words = new Uint32Array(raw.buffer)
    return { data: storage === "f16" ? words : tileF16(words, rows, cols), scales: new Uint32Array(0) }
  }
  const values = widen(info.dtype, raw, rows * cols)
  const limit = inHalves || storage === "int4" ? 65504 : Number.MAX_VALUE
  for (let i = 0; i < values.length; i++) {
    const value = values[i]!
    if (!(Math.abs(value) <= limit)) return yield* outOfRange(path, info, storage, value, from * cols + i)
  }
  return packRows(storage, values, rows, cols)
})

/** After `narrowBf16` failed the piece holds halves before the bad element and the original from it on. */
const bfloatAt = (raw: Uint8Array<ArrayBuffer>, index: number): Uint16Array =>
  new Uint16Array(raw.buffer).slice(index, index + 1)

const widen = (dtype: Dtype, raw: Uint8Array<ArrayBuffer>, count: number): Float32Array<ArrayBuffer> => {
  if (dtype === "F32") return new Float32Array(raw.buffer)
  const values = new Float32Array(count)
  if (dtype === "F64") values.set(new Float64Array(raw.buffer))
  else if (dtype === "F16") decodeF16(new Uint16Array(raw.buffer), values)
  else decodeBf16(new Uint16Array(raw.buffer), values)
  return values
}

let halfOfBfloat: Uint16Array | undefined

/** bf16 to f16 bit patterns, by a table of all of them made on first use. */
const bfloatTable = (): Uint16Array => {
  if (halfOfBfloat === undefined) {
    const values = new Float32Array(65_536)
    decodeBf16(
      Uint16Array.from({ length: 65_536 }, (_, i) => i),
      values
    )
    halfOfBfloat = new Uint16Array(new Float16Array(values).buffer)
  }
  return halfOfBfloat
}

/** Turns bf16 bits into f16 bits in place; the index of the first that has no finite f16, or -1. */
const narrowBf16 = (bits: Uint16Array): number => {
  const table = bfloatTable()
  for (let i = 0; i < bits.length; i++) {
    const half = table[bits[i]!]!
    if ((half & 0x7c00) === 0x7c00) return i
    bits[i] = half
  }
  return -1
}

const outOfRange = (path: string, info: TensorInfo, storage: Storage, value: number, index: number): ModelError =>
  Number.isFinite(value)
    ? ModelError.unsupported({
        operation,
        file: path,
        tensor: info.name,
        option: storage,
        message: `${path}: tensor ${quote(info.name)} holds ${value} at index ${index}, beyond the ±65504 of ${storage === "int4" ? storage : "f16"}; load with --dtype f32${storage === "int4" ? " or --quantize int8" : ""}`
      })
    : ModelError.notFinite({
        operation,
        file: path,
        tensor: info.name,
        index,
        message: `${path}: tensor ${quote(info.name)} holds ${value} at index ${index}; fetch the checkpoint again`
      })
