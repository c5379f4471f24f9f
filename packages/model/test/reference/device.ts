/** What the whole-model tests share: the device, a model from a written folder, gradients of a loss, and comparisons. */
import { NodeServices } from "@effect/platform-node"
import { assert } from "@effect/vitest"
import { Gpu, GpuDawn, makeOps, type Ops, onlyVariant, type Tape } from "@srcode/gpu"
import { Effect, Layer } from "effect"
import {
  allocBatch,
  allocHead,
  allocRope,
  allocWorkspace,
  type Batch,
  backward,
  type Checkpointing,
  type Decoder,
  flatLength,
  flatToTensors,
  forward,
  type GradientTarget,
  type HeadWorkspace,
  headElements,
  type Lora,
  loadConfig,
  loadModel,
  loraLength,
  loraWindows,
  openModelWeights,
  packSequences,
  readFlat,
  type Sequence,
  scatterSelected,
  scoreRows,
  scoreRowsBackward,
  selectRows,
  unpackLora,
  uploadBatch,
  type Workspace,
  windowsOf
} from "../../src/index.ts"
import { temporaryFolder } from "../support.ts"
import { type Shape, writeCheckpoint } from "./checkpoint.ts"
import { toF64 } from "./decoder.ts"
import type { LossWeights } from "./loss.ts"

export const DeviceLayer = Layer.mergeAll(GpuDawn.layerWith({ device: "auto" }), NodeServices.layer)

/**
 * Runs with the kernels that are chosen for hardware, whatever the device is; of matmul the simplest, for a software driver takes seconds
 * to compile the others, which have tests of their own.
 */
export const asHardware = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.flatMap(Gpu, (gpu) => {
    // Larger workgroups take a software driver long.
    const limits = { ...gpu.info.limits, maxComputeInvocationsPerWorkgroup: 256 }
    const info = { ...gpu.info, limits, software: false, matmul: onlyVariant("tiled") }
    return Effect.provideService(effect, Gpu, Gpu.of({ ...gpu, info }))
  })

/** ‖x − y‖ / ‖y‖ over a whole tensor; for y = 0 the norm of x. */
export const relativeError = (x: ArrayLike<number>, y: ArrayLike<number>): number => {
  assert.strictEqual(x.length, y.length)
  let difference = 0
  let size = 0
  for (let i = 0; i < y.length; i++) {
    difference += (x[i]! - y[i]!) ** 2
    size += y[i]! ** 2
  }
  return size === 0 ? Math.sqrt(difference) : Math.sqrt(difference / size)
}

export const assertNear = (name: string, x: ArrayLike<number>, y: ArrayLike<number>, tolerance = 1e-4): void => {
  const error = relativeError(x, y)
  assert.isTrue(error <= tolerance, `${name}: relative error ${error} exceeds ${tolerance}`)
}

/** Writes a random checkpoint to a folder of the test's Scope and loads it; also its tensors in double precision. */
export const loadShape = Effect.fn("test.loadShape")(function* (shape: Shape, seed: number) {
  const directory = `${yield* temporaryFolder}/model`
  const tensors = yield* writeCheckpoint(directory, shape, seed)
  const model = yield* loadModel(directory)
  return { directory, model, parameters: toF64(tensors) }
})

/** The same folder with its weights as windows of one flat buffer, as full-parameter training wants them. */
export const loadFlat = Effect.fn("test.loadFlat")(function* (directory: string) {
  const gpu = yield* Gpu
  const config = yield* loadConfig(directory)
  const image = yield* readFlat(config, yield* openModelWeights(directory))
  const flat = yield* gpu.alloc("flat", "f32", flatLength(config))
  yield* gpu.write(flat, image)
  const decoder: Decoder = { config, weights: windowsOf(config, flat), rope: yield* allocRope(config, 256) }
  return { config, flat, image, decoder }
})

/** Records forward, fused head and backward; `hw.grad` says what the loss is. */
export const recordGradients = (
  tape: Tape,
  ops: Ops,
  decoder: Decoder,
  lora: Lora | null,
  { batch, hw, ws }: { readonly batch: Batch; readonly ws: Workspace; readonly hw: HeadWorkspace },
  temperature: number,
  into: GradientTarget,
  embed: Parameters<typeof backward>[7]
): void => {
  const { config } = decoder
  const { head } = decoder.weights
  forward(tape, ops, decoder, lora, batch, ws)
  selectRows(tape, ops, config, batch, ws.hidden, hw.selected)
  scoreRows(tape, ops, config, head, batch, hw, temperature, false)
  scoreRowsBackward(tape, ops, config, head, batch, hw, temperature, false, {
    accumulate: false,
    ...(into.weights ? { dHead: into.weights.head } : {})
  })
  if (ws.gradients) scatterSelected(tape, ops, config, batch, hw.dSelected, ws.gradients.dHidden)
  backward(tape, ops, decoder, lora, batch, ws, into, embed)
}

/** Forward, fused head and backward of one packed batch under a loss of the form of `LossWeights`. */
export const deviceGradients = Effect.fn("test.deviceGradients")(function* (
  decoder: Decoder,
  lora: Lora | null,
  sequences: ReadonlyArray<Sequence>,
  weights: LossWeights,
  full: boolean,
  checkpointing: Checkpointing = "none"
) {
  const gpu = yield* Gpu
  const ops = makeOps(gpu.info)
  const { config } = decoder
  const packed = packSequences(sequences)
  const capacity = packed.rows
  const rank = lora?.rank ?? 0
  const head = headElements(config, { capacity, reference: false })
  const ws = yield* allocWorkspace(config, { capacity, save: true, rank, checkpointing, head })
  const hw = yield* allocHead(config, { capacity, reference: false, scratch: ws.head })
  const batch = yield* uploadBatch(yield* allocBatch(capacity), packed)
  const flat = yield* gpu.alloc("gradient", "f32", flatLength(config))
  const gw = windowsOf(config, flat)
  const loraFlat = lora ? yield* gpu.alloc("lora gradient", "f32", loraLength(config, rank)) : null
  const { start, order } = tokenOrder(packed.ids, config.vocabSize)
  const embed = {
    start: yield* gpu.alloc("start", "u32", start.length),
    order: yield* gpu.alloc("order", "u32", order.length)
  }
  yield* gpu.write(embed.start, start)
  yield* gpu.write(embed.order, order)
  const seed = Array.from({ length: batch.lossRows }, () => [weights.logProb, weights.entropy, 0]).flat()
  yield* gpu.write(hw.grad, Float32Array.from(seed))
  const into = {
    ...(full ? { weights: gw } : {}),
    ...(loraFlat ? { lora: loraWindows(config, rank, loraFlat) } : {})
  }
  yield* gpu.submit("gradients", (tape) =>
    recordGradients(tape, ops, decoder, lora, { batch, ws, hw }, weights.temperature, into, full ? embed : undefined)
  )
  const scored = yield* gpu.read({ ...hw.scored, length: batch.lossRows * 4 })
  const column = (c: number) => Array.from({ length: batch.lossRows }, (_, i) => scored[4 * i + c]!)
  const loraImage = loraFlat ? yield* gpu.read(loraFlat) : null
  return {
    logProbs: column(0),
    entropy: column(1),
    parameters: new Map(flatToTensors(config, yield* gpu.read(flat)).map(({ name, data }) => [name, data])),
    loraImage,
    lora: loraImage ? unpackLora(config, rank, loraImage) : null
  }
}, Effect.scoped)

const tokenOrder = (ids: Uint32Array, vocab: number) => {
  const order = Uint32Array.from([...ids.keys()].sort((a, b) => ids[a]! - ids[b]! || a - b))
  const start = Uint32Array.from({ length: vocab + 1 }, (_, v) => ids.reduce((n, id) => n + (id < v ? 1 : 0), 0))
  return { start, order }
}
