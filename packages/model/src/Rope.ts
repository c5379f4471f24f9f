/**
 * The rotary table [positions, D/2, 2] of cosine and sine, made in f64: angle = position · f_i with f_i = θ^(-2i/D) (Su et
 * al. 2021), or what position scaling makes of it. Scaling costs nothing at run time; the kernels only see the table.
 */

import { Gpu, type Tensor } from "@srcode/gpu"
import { Effect } from "effect"
import type { ModelConfig, RopeScaling } from "./Config.ts"

export interface RopeTables {
  readonly positions: number
  /** [positions, D/2, 2]: cosine, sine. */
  readonly table: Tensor<"f32">
}

/**
 * One frequency (radians a position) under scaling. Llama 3: with t = the turns it makes within the original context, L
 * and H the two factors, it is divided by `factor` for t < L, kept for t > H, and blended linearly in t between.
 */
const scaled = (frequency: number, scaling: RopeScaling | null): number => {
  if (scaling === null) return frequency
  if (scaling.kind === "linear") return frequency / scaling.factor
  const turns = (scaling.originalMaxPositions * frequency) / (2 * Math.PI)
  const { factor, lowFreqFactor, highFreqFactor } = scaling
  const kept = Math.min(1, Math.max(0, (turns - lowFreqFactor) / (highFreqFactor - lowFreqFactor)))
  return frequency * (kept + (1 - kept) / factor)
}

/** The D/2 frequencies of the pairs (i, i + D/2), in radians a position. */
export const ropeFrequencies = (config: ModelConfig): Float64Array =>
  Float64Array.from({ length: config.headDim / 2 }, (_, i) =>
    scaled(config.ropeTheta ** ((-2 * i) / config.headDim), config.ropeScaling)
  )

/** Table for positions 0 … positions - 1. */
export const allocRope = Effect.fn("Rope.alloc")(function* (config: ModelConfig, positions: number) {
  const gpu = yield* Gpu
  const frequencies = ropeFrequencies(config)
  const host = new Float32Array(positions * config.headDim)
  for (let p = 0, at = 0; p < positions; p++) {
    for (const frequency of frequencies) {
      host[at++] = Math.cos(p * frequency)
      host[at++] = Math.sin(p * frequency)
    }
  }
  const table = yield* gpu.alloc("rope.table", "f32", host.length)
  yield* gpu.write(table, host)
  const tables: RopeTables = { positions, table }
  return tables
})
