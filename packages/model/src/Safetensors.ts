/**
 * safetensors, read by range (writing is in `SafetensorsWriter.ts`).
 *
 * The header is checked in full before anything is allocated; tensors are read on demand, whole or by rows of
 * their first dimension, in pieces of 8 MiB, so that a large BF16 tensor never exists twice. Every float format arrives
 * as f32. A model may lie in several files: `ModelWeights.ts` puts them behind the same face.
 */

import type { Scope } from "effect"
import { Effect, FileSystem } from "effect"
import { ioError, requireFile } from "./internal/files.ts"
import { decodeBf16, decodeF16 } from "./internal/half.ts"
import { type Dtype, elementBytes, headerLength, parseHeader, type TensorInfo } from "./internal/safetensors-header.ts"
import { ModelError, quote } from "./ModelError.ts"

export type { Dtype, TensorInfo } from "./internal/safetensors-header.ts"

/** An open file, or the files of one model behind one face. Usable as long as the Scope it was opened in. */
export interface SafetensorsFile {
  readonly path: string
  readonly metadata: ReadonlyMap<string, string>
  readonly tensors: ReadonlyMap<string, TensorInfo>
  /** The whole tensor as f32 (F64 is rounded). Row-major, owned by the caller. Fails on integer dtypes. */
  readonly read: (name: string) => Effect.Effect<Float32Array, ModelError>
  /** Rows `[from, to)` of the first dimension as f32, `to - from` times the product of the other dimensions. */
  readonly readRows: (name: string, from: number, to: number) => Effect.Effect<Float32Array, ModelError>
  /** `read` after checking the shape. */
  readonly readShape: (name: string, shape: ReadonlyArray<number>) => Effect.Effect<Float32Array, ModelError>
  /** The stored bytes of any dtype. */
  readonly readBytes: (name: string) => Effect.Effect<Uint8Array, ModelError>
  /**
   * The stored bytes of elements `[first, first + count)` of any dtype, unconverted and little-endian. The array starts
   * its own buffer, so that a typed array of the dtype can be laid over it. The caller bounds `count`.
   */
  readonly readRaw: (name: string, first: number, count: number) => Effect.Effect<Uint8Array<ArrayBuffer>, ModelError>
}

const operation = "read safetensors"
const pieceBytes = 8 * 1024 * 1024

/** Opens and checks one file. The handle closes with the Scope. */
export const openSafetensors = Effect.fn("Safetensors.open")(function* (
  path: string
): Effect.fn.Return<SafetensorsFile, ModelError, FileSystem.FileSystem | Scope.Scope> {
  const fs = yield* FileSystem.FileSystem
  const failed = Effect.mapError(ioError(operation, path))
  yield* requireFile(operation, path)
  const handle = yield* fs.open(path, { flag: "r" }).pipe(failed)
  const fileBytes = Number((yield* handle.stat.pipe(failed)).size)

  /** Exactly `length` bytes at `position` into `target`. */
  const fill = Effect.fnUntraced(function* (target: Uint8Array, position: number) {
    let done = 0
    while (done < target.length) {
      const got = yield* handle.read(target.subarray(done), { position: BigInt(position + done) }).pipe(failed)
      if (got === 0) {
        return yield* ModelError.malformed({
          operation,
          file: path,
          message: `${path} became shorter while it was read; do not write to a model that is in use`
        })
      }
      done += got
    }
  })

  const prefix = new Uint8Array(Math.min(8, fileBytes))
  yield* fill(prefix, 0)
  const length = yield* headerLength(path, prefix, fileBytes)
  const headerBytes = new Uint8Array(length)
  yield* fill(headerBytes, 8)
  const { metadata, tensors } = yield* parseHeader(path, headerBytes, fileBytes)

  const find = (name: string): Effect.Effect<TensorInfo, ModelError> => {
    const info = tensors.get(name)
    return info === undefined ? Effect.fail(missingTensor(path, name, tensors)) : Effect.succeed(info)
  }

  const readElements = Effect.fnUntraced(function* (info: TensorInfo, first: number, count: number) {
    const size = elementBytes[info.dtype]
    const widen = widener(info.dtype)
    if (widen === undefined) {
      return yield* ModelError.unsupported({
        operation,
        file: path,
        tensor: info.name,
        option: info.dtype,
        message: `${path}: tensor ${quote(info.name)} is ${info.dtype}; only F32, F16, BF16 and F64 can be read as numbers`
      })
    }
    const target = yield* allocate(path, info.name, () => new Float32Array(count), count * 4)
    const start = info.offset + first * size
    if (info.dtype === "F32") {
      yield* fill(new Uint8Array(target.buffer), start)
      return target
    }
    const pieceElements = Math.min(count, pieceBytes / size)
    const piece = new Uint8Array(pieceElements * size)
    for (let done = 0; done < count; done += pieceElements) {
      const now = Math.min(pieceElements, count - done)
      yield* fill(piece.subarray(0, now * size), start + done * size)
      widen(piece.buffer, now, target, done)
    }
    return target
  })

  const readRows = Effect.fnUntraced(function* (name: string, from: number, to: number) {
    const info = yield* find(name)
    const rows = info.shape[0] ?? 0
    if (!(Number.isInteger(from) && Number.isInteger(to) && 0 <= from && from <= to && to <= rows)) {
      return yield* ModelError.invalid({
        operation,
        file: path,
        tensor: name,
        message: `${path}: rows ${from}..${to} of tensor ${quote(name)} are outside its ${rows} rows`
      })
    }
    const width = rows === 0 ? 0 : info.elements / rows
    return yield* readElements(info, from * width, (to - from) * width)
  })

  const readRaw = Effect.fnUntraced(function* (name: string, first: number, count: number) {
    const info = yield* find(name)
    const inside = Number.isInteger(first) && Number.isInteger(count) && first >= 0 && count >= 0
    if (!inside || first + count > info.elements) {
      return yield* ModelError.invalid({
        operation,
        file: path,
        tensor: name,
        message: `${path}: ${count} elements from ${first} of tensor ${quote(name)} are outside its ${info.elements} elements`
      })
    }
    const size = elementBytes[info.dtype]
    const target = yield* allocate(path, name, () => new Uint8Array(count * size), count * size)
    yield* fill(target, info.offset + first * size)
    return target
  })

  return {
    path,
    metadata,
    tensors,
    read: Effect.fnUntraced(function* (name: string) {
      const info = yield* find(name)
      return yield* readElements(info, 0, info.elements)
    }),
    readRows,
    readShape: Effect.fnUntraced(function* (name: string, shape: ReadonlyArray<number>) {
      const info = yield* find(name)
      yield* requireShape(operation, info, shape, path)
      return yield* readElements(info, 0, info.elements)
    }),
    readBytes: (name) => Effect.flatMap(find(name), (info) => readRaw(name, 0, info.elements)),
    readRaw
  }
})

export const missingTensor = (path: string, name: string, tensors: ReadonlyMap<string, TensorInfo>): ModelError => {
  const some = [...tensors.keys()].slice(0, 3).map(quote).join(", ")
  return ModelError.missing({
    operation,
    file: path,
    tensor: name,
    message: `${path} has no tensor ${quote(name)} (it has ${tensors.size}: ${some}, ...); check that it belongs to this config.json`
  })
}

/** Fails when the stored shape differs from the one the model needs. */
export const requireShape = (
  during: string,
  info: { readonly name: string; readonly shape: ReadonlyArray<number> },
  expected: ReadonlyArray<number>,
  file?: string
): Effect.Effect<void, ModelError> =>
  info.shape.length === expected.length && expected.every((size, axis) => info.shape[axis] === size)
    ? Effect.void
    : Effect.fail(
        ModelError.shape({
          operation: during,
          tensor: info.name,
          expected,
          actual: info.shape,
          ...(file === undefined ? {} : { file })
        })
      )

/** Fails on the first NaN or infinity. */
export const requireFinite = (during: string, tensor: string, data: Float32Array): Effect.Effect<void, ModelError> => {
  for (let index = 0; index < data.length; index++) {
    if (!Number.isFinite(data[index])) {
      return Effect.fail(
        ModelError.notFinite({
          operation: during,
          tensor,
          index,
          message: `${during}: tensor ${quote(tensor)} holds ${data[index]} at index ${index}; go back to the last good checkpoint and lower the learning rate`
        })
      )
    }
  }
  return Effect.void
}

const allocate = <A>(path: string, tensor: string, make: () => A, bytes: number): Effect.Effect<A, ModelError> =>
  Effect.try({
    try: make,
    catch: () =>
      ModelError.io({
        operation,
        file: path,
        tensor,
        message: `${path}: no memory for the ${bytes} bytes of tensor ${quote(tensor)}; read it by rows or free memory`
      })
  })

type Widen = (source: ArrayBuffer, count: number, target: Float32Array, at: number) => void

const widener = (dtype: Dtype): Widen | undefined => {
  switch (dtype) {
    case "F32":
      return (source, count, target, at) => target.set(new Float32Array(source, 0, count), at)
    case "F64":
      return (source, count, target, at) => target.set(new Float64Array(source, 0, count), at)
    case "F16":
      return (source, count, target, at) => decodeF16(new Uint16Array(source, 0, count), target, at)
    case "BF16":
      return (source, count, target, at) => decodeBf16(new Uint16Array(source, 0, count), target, at)
    default:
      return undefined
  }
}
