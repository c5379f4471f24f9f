/**
 * AdamW over one flat buffer of parameters, with its gradient, moments and clipped norm on the device.
 *
 * The gradient is accumulated by the backward passes of a step; `update` scales it to the clip norm, applies it, and
 * clears it. A gradient that is not finite changes nothing and shows in `clip[2]`.
 */

import { Gpu, type GpuError, normBlock, type Ops, type Tape, type Tensor } from "@srcode/gpu"
import { Effect, type Scope } from "effect"

type F = Tensor<"f32">

export interface Optimizer {
  readonly length: number
  readonly params: F
  readonly grads: F
  readonly m: F
  readonly v: F
  readonly partial: F
  /** [3]: scale, gradient norm before clipping, 1 when not finite. */
  readonly clip: F
}

export interface AdamWOptions {
  readonly lr: number
  readonly betas: readonly [number, number]
  readonly eps: number
  readonly weightDecay: number
  /** Largest gradient norm; 0 turns clipping off. */
  readonly clip: number
}

/** Gradients and moments (zeros) for `params`; `clip` may be a part of a larger record. */
export const allocOptimizer = (
  label: string,
  params: F,
  clip?: F
): Effect.Effect<Optimizer, GpuError, Gpu | Scope.Scope> =>
  Effect.gen(function* () {
    const gpu = yield* Gpu
    const n = params.length
    return {
      length: n,
      params,
      grads: yield* gpu.alloc(`${label}.grads`, "f32", n),
      m: yield* gpu.alloc(`${label}.m`, "f32", n),
      v: yield* gpu.alloc(`${label}.v`, "f32", n),
      partial: yield* gpu.alloc(`${label}.norm`, "f32", 2 * Math.ceil(n / normBlock)),
      clip: clip ?? (yield* gpu.alloc(`${label}.clip`, "f32", 3))
    }
  })

/** Records norm and clip of the accumulated gradient; separate from `applyUpdate` so that groups can share a norm. */
export const measureGradient = (tape: Tape, ops: Ops, o: Optimizer, clip: number): void =>
  ops.gradNorm(tape, { g: o.grads, partial: o.partial, out: o.clip, n: o.length, clip })

/** Records the update of step `step` (from 1) with the scale in `clip`, then clears the gradient. */
export const applyUpdate = (
  tape: Tape,
  ops: Ops,
  o: Optimizer,
  options: AdamWOptions,
  step: number,
  clip: F = o.clip
): void => {
  ops.adamw(tape, {
    w: o.params,
    g: o.grads,
    m: o.m,
    v: o.v,
    clip,
    n: o.length,
    step,
    lr: options.lr,
    beta1: options.betas[0],
    beta2: options.betas[1],
    eps: options.eps,
    weightDecay: options.weightDecay
  })
  tape.clear(o.grads)
}

/** Host images for a checkpoint. */
export const readOptimizer = Effect.fnUntraced(function* (o: Optimizer) {
  const gpu = yield* Gpu
  return { params: yield* gpu.read(o.params), m: yield* gpu.read(o.m), v: yield* gpu.read(o.v) }
})

export const writeOptimizer = Effect.fnUntraced(function* (
  o: Optimizer,
  image: {
    readonly params: Float32Array<ArrayBuffer>
    readonly m: Float32Array<ArrayBuffer>
    readonly v: Float32Array<ArrayBuffer>
  }
) {
  const gpu = yield* Gpu
  yield* gpu.write(o.params, image.params)
  yield* gpu.write(o.m, image.m)
  yield* gpu.write(o.v, image.v)
})
