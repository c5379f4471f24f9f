/** Rotary position tables cos, sin [positions, D/2], made in f64: angle = position · θ^(-2i/D) (Su et al. 2021). */

import { Gpu, type Tensor } from "@srcode/gpu"
import { Effect } from "effect"
import type { ModelConfig } from "./Config.ts"

export interface RopeTables {
  readonly positions: number
  readonly cosine: Tensor<"f32">
  readonly sine: Tensor<"f32">
}

export const ropeAngles = (config: ModelConfig, positions: number): Float64Array => {
  const half = config.headDim / 2
  return Float64Array.from(
    { length: positions * half },
    (_, i) => Math.floor(i / half) * config.ropeTheta ** ((-2 * (i % half)) / config.headDim)
  )
}

/** Tables for positions 0 … positions - 1. */
export const allocRope = Effect.fn("Rope.alloc")(function* (config: ModelConfig, positions: number) {
  const gpu = yield* Gpu
  const angles = ropeAngles(config, positions)
  const cosine = yield* gpu.alloc("rope.cosine", "f32", angles.length)
  const sine = yield* gpu.alloc("rope.sine", "f32", angles.length)
  yield* gpu.write(cosine, Float32Array.from(angles, Math.cos))
  yield* gpu.write(sine, Float32Array.from(angles, Math.sin))
  const tables: RopeTables = { positions, cosine, sine }
  return tables
})
