/**
 * Writing safetensors whose bytes are made while they are written, so that host memory stays at one piece whatever the
 * size of the model; in one file or in shards with their index, under the names that Hugging Face loaders expect.
 *
 * Each file appears under its name only when it is complete and flushed. The index comes last: a model that was cut off
 * while its shards were written has none and no loader takes it for whole.
 */
import { Effect, FileSystem } from "effect"
import { type Emit, ioError, makeDirectory, writeAtomicWith, writeTextAtomic } from "./internal/files.ts"
import type { Dtype } from "./internal/safetensors-header.ts"
import { bytesOf, byWidthAndName, divide, encodeHeader, type Shard } from "./internal/safetensors-layout.ts"
import { ModelError, quote } from "./ModelError.ts"

export type { Emit } from "./internal/files.ts"
export type { Shard } from "./internal/safetensors-layout.ts"

/** A tensor whose stored bytes (row-major, little-endian) are handed over in order, in pieces of any size. */
export interface StreamedTensor<R = never> {
  readonly name: string
  readonly shape: ReadonlyArray<number>
  readonly dtype: Dtype
  readonly produce: (emit: Emit) => Effect.Effect<void, ModelError, R>
}

export interface StreamOptions {
  /** Default `{"format":"pt"}`. */
  readonly metadata?: Readonly<Record<string, string>>
  /** Told after each piece how many bytes of tensors were written since the last call. */
  readonly onBytes?: (bytes: number) => Effect.Effect<void>
}

export interface ShardOptions extends StreamOptions {
  /** Bytes of tensors a file may hold; default 5 GB (5e9), as in transformers. */
  readonly shardBytes?: number
}

const operation = "write safetensors"
export const defaultShardBytes = 5_000_000_000

/** Writes one file, tensors in the order given. A producer that hands over too many or too few bytes is an error. */
export const writeSafetensorsStream = Effect.fn("Safetensors.writeStream")(function* <R>(
  path: string,
  tensors: ReadonlyArray<StreamedTensor<R>>,
  options: StreamOptions = {}
) {
  const head = yield* encodeHeader(path, tensors, options.metadata)
  const write = Effect.fnUntraced(function* (emit: Emit) {
    yield* emit(head)
    for (const tensor of tensors) {
      const expected = bytesOf(tensor)
      const wrong = (actual: number) =>
        ModelError.invalid({
          operation,
          file: path,
          tensor: tensor.name,
          message: `${path}: tensor ${quote(tensor.name)} of ${tensor.dtype} [${tensor.shape.join(", ")}] takes ${expected} bytes, ${actual} were given`
        })
      let given = 0
      yield* tensor.produce((piece) => {
        given += piece.length
        if (given > expected) return Effect.fail(wrong(given))
        return options.onBytes === undefined ? emit(piece) : Effect.andThen(emit(piece), options.onBytes(piece.length))
      })
      if (given !== expected) return yield* wrong(given)
    }
  })
  yield* writeAtomicWith(operation, path, write)
})

/** Where the tensors go by size: filled in the order given, inside a file in the order of the reference implementation. */
export const planShards = <R>(
  tensors: ReadonlyArray<StreamedTensor<R>>,
  shardBytes: number = defaultShardBytes
): ReadonlyArray<Shard<StreamedTensor<R>>> =>
  divide(tensors, shardBytes).map(({ file, tensors }) => ({ file, tensors: [...tensors].sort(byWidthAndName) }))

/** Writes a model's weights into a folder (made when absent) by a plan; several files get `model.safetensors.index.json`. */
export const writeShards = Effect.fn("Safetensors.writeShards")(function* <R>(
  directory: string,
  shards: ReadonlyArray<Shard<StreamedTensor<R>>>,
  options: StreamOptions = {}
) {
  const fs = yield* FileSystem.FileSystem
  const indexFile = `${directory}/model.safetensors.index.json`
  yield* makeDirectory(operation, directory)
  const names = new Set(shards.flatMap(({ tensors }) => tensors.map(({ name }) => name)))
  if (names.size !== shards.reduce((count, { tensors }) => count + tensors.length, 0)) {
    return yield* ModelError.invalid({
      operation,
      file: directory,
      message: `${directory}: a tensor name is used in two shards`
    })
  }
  // neither an index nor a single file of earlier weights may stand over new shards
  for (const stale of [indexFile, `${directory}/model.safetensors`]) {
    yield* fs.remove(stale, { force: true }).pipe(Effect.mapError(ioError(operation, stale)))
  }
  for (const { file, tensors } of shards) yield* writeSafetensorsStream(`${directory}/${file}`, tensors, options)
  const placed = shards.flatMap(({ file, tensors }) => tensors.map((tensor) => ({ file, tensor })))
  const totalBytes = placed.reduce((sum, { tensor }) => sum + bytesOf(tensor), 0)
  if (shards.length !== 1 || shards[0]?.file !== "model.safetensors") {
    const places = placed.map(({ file, tensor }) => [tensor.name, file] as const).sort(([a], [b]) => (a < b ? -1 : 1))
    const index = { metadata: { total_size: totalBytes }, weight_map: Object.fromEntries(places) }
    yield* writeTextAtomic(operation, indexFile, `${JSON.stringify(index, null, 2)}\n`)
  }
  return { files: shards.map(({ file }) => file), totalBytes }
})

/** Writes a model's weights into a folder, divided by size. */
export const writeShardedSafetensors = Effect.fn("Safetensors.writeSharded")(function* <R>(
  directory: string,
  tensors: ReadonlyArray<StreamedTensor<R>>,
  options: ShardOptions = {}
) {
  const { shardBytes = defaultShardBytes } = options
  if (!(shardBytes > 0)) {
    return yield* ModelError.invalid({
      operation,
      message: `${operation}: a shard size of ${shardBytes} bytes is not positive`
    })
  }
  return yield* writeShards(directory, planShards(tensors, shardBytes), options)
})
