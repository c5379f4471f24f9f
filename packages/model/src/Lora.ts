/**
 * A low-rank adapter on the device, grouped like the fused weights it belongs to: one stacked A [G r, in] and one
 * block-diagonal B [out, G r] per fused weight, so base and adapter are one matmul.
 *
 * All A and B live in one flat buffer (one optimiser dispatch). Off-diagonal entries of B are zero and stay zero: the
 * gradient there is masked. y += scale · B(A(x)), scale = alpha / r (Hu et al. 2021).
 */

import { alignElements, Gpu, type GpuError, type Tensor, window } from "@srcode/gpu"
import { Effect, type Scope } from "effect"
import { type LinearModule, linearShapes, type ModelConfig } from "./Config.ts"
import { type Adapter, type LoraKey, type LoraPair, loraKey, loraScale } from "./Peft.ts"

type F = Tensor<"f32">

export type FusedLinear = "qkv" | "o" | "gateUp" | "down"

export const fusedModules: Readonly<Record<FusedLinear, ReadonlyArray<LinearModule>>> = {
  qkv: ["q_proj", "k_proj", "v_proj"],
  o: ["o_proj"],
  gateUp: ["gate_proj", "up_proj"],
  down: ["down_proj"]
}

export const fusedLinears: ReadonlyArray<FusedLinear> = ["qkv", "o", "gateUp", "down"]

/** Shape of one fused weight: out, in, and the last output row of each group. */
export const fusedShape = (config: ModelConfig, fused: FusedLinear) => {
  const shapes = linearShapes(config)
  const ends: Array<number> = []
  let out = 0
  for (const module of fusedModules[fused]) ends.push((out += shapes[module][0]))
  return { out, in: shapes[fusedModules[fused][0] ?? "o_proj"][1], ends }
}

/** One fused weight's adapter: windows of the flat buffer. */
export interface LoraPart {
  readonly a: F
  readonly b: F
  /** Columns of A's output: groups · rank. */
  readonly width: number
  readonly ends: ReadonlyArray<number>
}

export interface LoraTensors {
  readonly flat: F
  readonly layers: ReadonlyArray<Readonly<Record<FusedLinear, LoraPart>>>
}

export interface LoraShape {
  readonly rank: number
  readonly alpha: number
  /** Rank-stabilised: the scale is alpha / √rank (default: alpha / rank). */
  readonly useRslora?: boolean
}

export interface Lora extends LoraShape {
  readonly scale: number
  readonly params: LoraTensors
}

/** Elements of the flat buffer. */
export const loraLength = (config: ModelConfig, rank: number): number => {
  let length = 0
  for (const fused of fusedLinears) {
    const shape = fusedShape(config, fused)
    const width = shape.ends.length * rank
    length += alignElements(width * shape.in) + alignElements(shape.out * width)
  }
  return length * config.numLayers
}

/** Windows of a flat buffer (parameters or gradients). */
export const loraWindows = (config: ModelConfig, rank: number, flat: F): LoraTensors => {
  let offset = 0
  const take = (length: number, label: string): F => {
    const t = window(flat, offset, length, label)
    offset += alignElements(length)
    return t
  }
  const part = (layer: number, fused: FusedLinear): LoraPart => {
    const shape = fusedShape(config, fused)
    const width = shape.ends.length * rank
    return {
      a: take(width * shape.in, `lora.${layer}.${fused}.a`),
      b: take(shape.out * width, `lora.${layer}.${fused}.b`),
      width,
      ends: shape.ends
    }
  }
  const layers = Array.from({ length: config.numLayers }, (_, i) => ({
    qkv: part(i, "qkv"),
    o: part(i, "o"),
    gateUp: part(i, "gateUp"),
    down: part(i, "down")
  }))
  return { flat, layers }
}

/** Allocates an adapter of zeros: the identity. */
export const allocLora = (config: ModelConfig, shape: LoraShape): Effect.Effect<Lora, GpuError, Gpu | Scope.Scope> =>
  Effect.gen(function* () {
    const gpu = yield* Gpu
    const flat = yield* gpu.alloc("lora", "f32", loraLength(config, shape.rank))
    const { rank, alpha, useRslora = false } = shape
    const params = loraWindows(config, rank, flat)
    return { rank, alpha, useRslora, scale: loraScale(rank, alpha, useRslora), params }
  })

/** Walks every (layer, module): its rows in the fused B, its rank rows in the fused A, and the flat offsets of both. */
const eachModule = (
  config: ModelConfig,
  rank: number,
  visit: (
    key: LoraKey,
    at: { a: number; b: number; width: number; group: number; firstRow: number; out: number; in: number }
  ) => void
): void => {
  let offset = 0
  for (let layer = 0; layer < config.numLayers; layer++) {
    for (const fused of fusedLinears) {
      const shape = fusedShape(config, fused)
      const width = shape.ends.length * rank
      const a = offset
      const b = a + alignElements(width * shape.in)
      offset = b + alignElements(shape.out * width)
      fusedModules[fused].forEach((module, group) => {
        const firstRow = group === 0 ? 0 : (shape.ends[group - 1] ?? 0)
        visit(loraKey(layer, module), {
          a,
          b,
          width,
          group,
          firstRow,
          out: (shape.ends[group] ?? 0) - firstRow,
          in: shape.in
        })
      })
    }
  }
}

/** The flat host image of PEFT pairs; modules that are absent stay zero. */
export const packLora = (
  config: ModelConfig,
  rank: number,
  pairs: ReadonlyMap<LoraKey, LoraPair>
): Float32Array<ArrayBuffer> => {
  const flat = new Float32Array(loraLength(config, rank))
  eachModule(config, rank, (key, at) => {
    const pair = pairs.get(key)
    if (pair === undefined) return
    flat.set(pair.a, at.a + at.group * rank * at.in)
    for (let row = 0; row < at.out; row++) {
      flat.set(pair.b.subarray(row * rank, (row + 1) * rank), at.b + (at.firstRow + row) * at.width + at.group * rank)
    }
  })
  return flat
}

/** The PEFT pairs of a flat host image. */
export const unpackLora = (config: ModelConfig, rank: number, flat: Float32Array): Map<LoraKey, LoraPair> => {
  const pairs = new Map<LoraKey, LoraPair>()
  eachModule(config, rank, (key, at) => {
    const a = flat.slice(at.a + at.group * rank * at.in, at.a + (at.group + 1) * rank * at.in)
    const b = new Float32Array(at.out * rank)
    for (let row = 0; row < at.out; row++) {
      const src = at.b + (at.firstRow + row) * at.width + at.group * rank
      b.set(flat.subarray(src, src + rank), row * rank)
    }
    pairs.set(key, { a, b })
  })
  return pairs
}

/** PEFT's initialisation: A uniform in ±1/√in (kaiming with a = √5), B zero, so the adapter starts as the identity. */
export const initialLora = (config: ModelConfig, rank: number, uniform: () => number): Float32Array<ArrayBuffer> => {
  const pairs = new Map<LoraKey, LoraPair>()
  const shapes = linearShapes(config)
  for (let layer = 0; layer < config.numLayers; layer++) {
    for (const module of Object.keys(shapes) as ReadonlyArray<LinearModule>) {
      const [out, inner] = shapes[module]
      const bound = 1 / Math.sqrt(inner)
      const a = Float32Array.from({ length: rank * inner }, () => (2 * uniform() - 1) * bound)
      pairs.set(loraKey(layer, module), { a, b: new Float32Array(out * rank) })
    }
  }
  return packLora(config, rank, pairs)
}

/** Puts an adapter read from disk on the device. */
export const uploadLora = Effect.fn("Lora.upload")(function* (config: ModelConfig, adapter: Adapter) {
  const gpu = yield* Gpu
  const lora = yield* allocLora(config, adapter)
  yield* gpu.write(lora.params.flat, packLora(config, adapter.rank, adapter.tensors))
  return lora
})
