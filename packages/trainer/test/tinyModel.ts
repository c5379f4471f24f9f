/** A random decoder small enough for the scalar reference, on the device and in double precision. */
import { NodeServices } from "@effect/platform-node"
import { assert } from "@effect/vitest"
import { Gpu, GpuDawn } from "@srcode/gpu"
import {
  allocRope,
  type Decoder,
  flatLength,
  flatToTensors,
  initialFlat,
  type ModelConfig,
  packLora,
  unpackLora,
  windowsOf
} from "@srcode/model"
import { Effect, FileSystem, Layer } from "effect"
import { normals, type TrainerError } from "../src/index.ts"
import type { Adapter, Graph, Num } from "./reference.ts"

export const config: ModelConfig = {
  modelType: "qwen2",
  hiddenSize: 8,
  intermediateSize: 12,
  numLayers: 2,
  numHeads: 2,
  numKeyValueHeads: 1,
  headDim: 4,
  vocabSize: 17,
  maxPositionEmbeddings: 48,
  rmsNormEps: 1e-6,
  ropeTheta: 10_000,
  ropeScaling: null,
  tieWordEmbeddings: true,
  attentionBias: true,
  qkNorm: false,
  eosTokenIds: [0],
  bosTokenId: null
}

export const DeviceLayer = Layer.mergeAll(GpuDawn.layerWith({ device: "auto" }), NodeServices.layer)

export const temporaryFolder = Effect.flatMap(FileSystem.FileSystem, (fs) =>
  fs.makeTempDirectoryScoped({ prefix: "srcode-trainer-" })
)

/** Random weights in which every part of the arithmetic is at work; `positions` are those of the rotary table. */
export const tinyDecoder = Effect.fnUntraced(function* (seed = 1, positions = 48) {
  const gpu = yield* Gpu
  const flat = yield* gpu.alloc("weights", "f32", flatLength(config))
  const next = normals(seed, 1)
  const image = initialFlat(config, next).map((w) => (w === 0 ? w : w === 1 ? 1 + 0.2 * next() : 15 * w))
  yield* gpu.write(flat, image)
  const decoder: Decoder = { config, weights: windowsOf(config, flat), rope: yield* allocRope(config, positions) }
  return { decoder, flat, image }
})

/** A flat adapter with both halves away from zero. */
export const randomAdapter = (rank: number, seed: number, size = 0.2): Float32Array<ArrayBuffer> => {
  const next = normals(seed, 9)
  const empty = unpackLora(config, rank, packLora(config, rank, new Map()))
  for (const pair of empty.values())
    for (const half of [pair.a, pair.b]) for (let i = 0; i < half.length; i++) half[i] = size * next()
  return packLora(config, rank, empty)
}

/** The weights and an adapter as leaves of a graph. */
export const onGraph = (graph: Graph, image: Float32Array, adapter: Float32Array, rank: number, scale: number) => {
  const tensors = new Map<string, ReadonlyArray<Num>>(
    flatToTensors(config, image).map(({ name, data }) => [name, graph.leaves(data)])
  )
  const pairs = new Map(
    [...unpackLora(config, rank, adapter)].map(([key, { a, b }]) => [key, { a: graph.leaves(a), b: graph.leaves(b) }])
  )
  const lora: Adapter = { rank, scale, pairs }
  /** The adapter's gradients in the order of the flat image. */
  const gradient = (): Float32Array =>
    packLora(
      config,
      rank,
      new Map(
        [...pairs].map(([key, { a, b }]) => [
          key,
          { a: Float32Array.from(a, (x) => x.grad), b: Float32Array.from(b, (x) => x.grad) }
        ])
      )
    )
  return { tensors, lora, gradient }
}

export const norm = (x: ArrayLike<number>): number => Math.hypot(...Array.from(x))

/** ‖x − y‖ / ‖y‖ */
export const relativeError = (x: ArrayLike<number>, y: ArrayLike<number>): number => {
  assert.strictEqual(x.length, y.length)
  return norm(Array.from(x, (value, i) => value - y[i]!)) / norm(y)
}

export const assertNear = (name: string, x: ArrayLike<number>, y: ArrayLike<number>, tolerance: number): void => {
  const error = relativeError(x, y)
  assert.isTrue(error <= tolerance, `${name}: relative error ${error} exceeds ${tolerance}`)
}

/** Runs to a TrainerError with that reason and a one-line message, which is returned. */
export const fails = Effect.fnUntraced(function* <A, E extends { readonly _tag: string }, R>(
  effect: Effect.Effect<A, E | TrainerError, R>,
  reason: TrainerError["reason"]["_tag"]
) {
  const error = yield* Effect.flip(effect)
  if (error._tag !== "TrainerError" || !("reason" in error) || !("message" in error)) return assert.fail(error._tag)
  const { reason: found, message } = error as TrainerError
  assert.strictEqual(found._tag, reason, message)
  assert.notMatch(message, /\n/)
  return message
})
