/**
 * A model of a preset's shape with random weights made on the device: no file, no download, ready in the time that a copy
 * of its size takes. Numbers are normal with standard deviation 0.02, drawn once for a pool of rows and repeated at
 * shifting places (timings do not care; zeros would, since they draw less power). Norms are 1.
 */
import { Gpu, type Matrix, packRows, type Storage, type Tensor, window } from "@srcode/gpu"
import { allocRope, allocWeights, type Decoder, type ModelConfig, type Precision } from "@srcode/model"
import { Effect } from "effect"

/** Numbers of the pool: rows of 4096, 16 MiB in 32 bits. */
const [poolRows, poolCols] = [1024, 4096]
const std = 0.02

/** Uniform numbers in [0, 1), quick (Marsaglia's xorshift32): there are tens of millions to draw. */
export const quickUniforms = (seed: number): (() => number) => {
  let x = (Math.imul(seed, 0x9e3779b1) ^ 0x2545f491) | 1
  return () => {
    x ^= x << 13
    x ^= x >>> 17
    x ^= x << 5
    return (x >>> 0) / 2 ** 32
  }
}

const normals = (seed: number): Float32Array<ArrayBuffer> => {
  const next = quickUniforms(seed)
  // Three uniform numbers in place of the logarithm of one: within 3 standard deviations, quick.
  return Float32Array.from({ length: poolRows * poolCols }, () => 2 * std * (next() + next() + next() - 1.5))
}

interface Pool {
  readonly data: Tensor
  readonly scales: Tensor | null
}

/** Words as they are: a copy does not ask what they mean. */
const upload = Effect.fnUntraced(function* (label: string, words: Uint32Array<ArrayBuffer>) {
  const gpu = yield* Gpu
  const tensor = yield* gpu.alloc(label, "u32", words.length)
  yield* gpu.write(tensor, words)
  return tensor
})

const makePool = Effect.fnUntraced(function* (storage: Storage, values: Float32Array<ArrayBuffer>) {
  const packed = packRows(storage, values, poolRows, poolCols)
  const data = yield* upload(`pool.${storage}`, packed.data)
  const scales = packed.scales.length === 0 ? null : yield* upload(`pool.${storage}.scales`, packed.scales)
  const pool: Pool = { data, scales }
  return pool
})

/** Copies the pool over all of `to`, in one submit for each pool length. */
const spread = Effect.fnUntraced(function* (from: Tensor, to: Tensor) {
  const gpu = yield* Gpu
  yield* gpu.submit("random weights", (tape) => {
    for (let at = 0; at < to.length; at += from.length) {
      const length = Math.min(from.length, to.length - at)
      tape.copy(window(from, 0, length), window(to, at, length), length)
    }
  })
})

const fill = Effect.fnUntraced(function* (matrix: Matrix, pool: Pool) {
  for (const part of matrix.parts) {
    yield* spread(pool.data, part.data)
    if ("scales" in part && pool.scales !== null) yield* spread(pool.scales, part.scales)
  }
})

/** Allocates and fills a decoder for sequences of up to `positions` tokens. It lives in the caller's Scope. */
export const makeRandomDecoder = Effect.fn("bench.randomDecoder")(function* (
  config: ModelConfig,
  precision: Precision,
  positions: number
) {
  const gpu = yield* Gpu
  const { matrices, vectors, weights } = yield* allocWeights(config, precision)
  yield* Effect.scoped(
    Effect.gen(function* () {
      const values = normals(1)
      const pools = new Map<Storage, Pool>()
      for (const { storage } of matrices.values()) {
        if (!pools.has(storage)) pools.set(storage, yield* makePool(storage, values))
      }
      for (const matrix of matrices.values()) {
        const pool = pools.get(matrix.storage)
        if (pool !== undefined) yield* fill(matrix, pool)
      }
      for (const [key, vector] of vectors) {
        const norm = /norm/i.test(key)
        yield* gpu.write(
          vector,
          Float32Array.from({ length: vector.length }, (_, i) => (norm ? 1 : (values[i % values.length] ?? 0)))
        )
      }
      yield* gpu.idle
    })
  )
  const decoder: Decoder = { config, weights, rope: yield* allocRope(config, positions) }
  return decoder
})
