/** A base and an adapter on disk for the tests of exports, what they must come to, and reading a folder back. */
import { Effect, FileSystem } from "effect"
import {
  type LinearModule,
  loadConfig,
  openModelWeights,
  type StoredDtype,
  tensorShapes,
  writeAdapter,
  writeSafetensors,
  writeShardedSafetensors
} from "../../src/index.ts"
import { allModules, plain, randomPairs, type Shape, writeCheckpoint } from "./checkpoint.ts"

/** Nearest number with `bits` of precision and a smallest exponent, ties to even: arithmetic, no bit patterns. */
const nearest = (x: number, bits: number, least: number): number => {
  const size = Math.abs(x)
  if (size === 0) return x
  const quantum = 2 ** (Math.max(Math.floor(Math.log2(size)), least) - bits + 1)
  const q = size / quantum
  const low = Math.floor(q)
  const up = q - low > 0.5 || (q - low === 0.5 && low % 2 !== 0)
  return Math.sign(x) * (up ? low + 1 : low) * quantum
}
export const rounded: Readonly<Record<StoredDtype, (x: number) => number>> = {
  F32: Math.fround,
  F16: (x) => nearest(x, 11, -14),
  BF16: (x) => nearest(x, 8, -126)
}

export const readAll = (directory: string) =>
  Effect.scoped(
    Effect.gen(function* () {
      const file = yield* openModelWeights(directory)
      const tensors = new Map<string, { dtype: string; data: Float32Array; bytes: Uint8Array }>()
      for (const [name, { dtype }] of file.tensors) {
        tensors.set(name, { dtype, data: yield* file.read(name), bytes: yield* file.readBytes(name) })
      }
      return tensors
    })
  )

/** A base stored as `dtype`, and an adapter beside it. */
export const writeBaseAndAdapter = Effect.fnUntraced(function* (
  directory: string,
  options: {
    readonly shape?: Shape
    readonly dtype?: StoredDtype
    readonly rank?: number
    readonly modules?: ReadonlyArray<LinearModule>
    readonly useRslora?: boolean
    readonly shardBytes?: number
  } = {}
) {
  const fs = yield* FileSystem.FileSystem
  const { shape = plain, dtype = "F32", rank = 3, modules = allModules, useRslora = false } = options
  const [base, adapter] = [`${directory}/base`, `${directory}/adapter`]
  const tensors = yield* writeCheckpoint(base, shape, 1)
  const config = yield* loadConfig(base)
  const text = yield* fs.readFileString(`${base}/config.json`)
  yield* fs.writeFileString(`${base}/config.json`, text.replace("10000,", '1000000.0,"torch_dtype":"float32",'))
  const shapes = tensorShapes(config)
  const list = [...(yield* readAll(base))].map(([name, { data }]) => ({ name, data, shape: shapes.get(name)! }))
  yield* writeSafetensors(`${base}/model.safetensors`, list, { dtype })
  if (options.shardBytes !== undefined) {
    const stored = yield* readAll(base)
    yield* writeShardedSafetensors(
      base,
      list.map(({ name, shape }) => ({ name, shape, dtype, produce: (emit) => emit(stored.get(name)!.bytes) })),
      { shardBytes: options.shardBytes }
    )
  }
  const pairs = randomPairs(shape, rank, 2, modules)
  yield* writeAdapter(adapter, config, { rank, alpha: 5, useRslora, targetModules: modules, tensors: pairs })
  return {
    base,
    adapter,
    out: `${directory}/out`,
    config,
    pairs,
    tensors,
    rank,
    scale: 5 / (useRslora ? rank ** 0.5 : rank)
  }
})

/** W + scale · B A in doubles, term by term. */
export const product = (
  weight: Float32Array,
  pair: { a: Float32Array; b: Float32Array },
  rank: number,
  scale: number
): Float64Array => {
  const width = pair.a.length / rank
  return Float64Array.from(weight, (w, i) => {
    const [row, column] = [Math.floor(i / width), i % width]
    let sum = 0
    for (let r = 0; r < rank; r++) sum += pair.b[row * rank + r]! * pair.a[r * width + column]!
    return w + scale * sum
  })
}
