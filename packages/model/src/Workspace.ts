/**
 * Activation buffers for up to `capacity` packed rows. With `save`, every layer keeps what its backward pass reads;
 * without, all layers share one set and only the residual stream alternates.
 */

import { type AdapterInfo, Gpu, type GpuError, type Tensor } from "@srcode/gpu"
import { Effect, type Scope } from "effect"
import type { ModelConfig } from "./Config.ts"

type F = Tensor<"f32">

/** One layer's activations; shapes by row: C hidden, H/G query/kv heads, D head size, F intermediate. */
export interface LayerActivations {
  readonly x: F // [C] residual stream at the layer's entry
  readonly rstd1: F
  readonly normed1: F // [C]
  readonly qkv: F // [(H + 2G) D], kept where heads are normed, else shared scratch
  readonly loraQkv: F // scaled A outputs of the adapter
  readonly q: F // [H D]
  readonly k: F // [G D]
  readonly v: F // [G D]
  readonly attended: F // [H D]
  readonly stat: F // [H, 2]
  readonly loraO: F
  readonly middle: F // [C] residual stream after attention
  readonly rstd2: F
  readonly normed2: F // [C]
  readonly loraGateUp: F
  readonly gateUp: F // [2F]
  readonly activated: F // [F]
  readonly loraDown: F
}

/** Gradient buffers shared by all layers. */
export interface GradientWorkspace {
  readonly dx: F // [C]
  readonly dHidden: F // [C]
  readonly dActivated: F // [F]
  readonly dGateUp: F // [2F]
  readonly dNormed: F // [C]
  readonly dAttended: F // [H D]
  readonly dq: F
  readonly dk: F
  readonly dv: F
  readonly dQkv: F
  readonly dLora: F // [3 rank]
  readonly columnScratch: F
}

export interface Workspace {
  readonly capacity: number
  readonly save: boolean
  readonly layers: ReadonlyArray<LayerActivations>
  readonly last: F // [C] residual stream after the last layer
  readonly rstd: F
  readonly hidden: F // [C] after the final norm
  readonly gradients: GradientWorkspace | null
}

export const allocWorkspace = (
  config: ModelConfig,
  options: { readonly capacity: number; readonly save: boolean; readonly rank: number }
): Effect.Effect<Workspace, GpuError, Gpu | Scope.Scope> =>
  Effect.gen(function* () {
    const gpu = yield* Gpu
    const n = options.capacity
    const [C, F, D] = [config.hiddenSize, config.intermediateSize, config.headDim]
    const [HD, GD] = [config.numHeads * D, config.numKeyValueHeads * D]
    const rank = Math.max(1, options.rank)
    const f32 = (label: string, width: number) => gpu.alloc(`activation.${label}`, "f32", n * width)
    const residual = [yield* f32("x0", C), yield* f32("x1", C)] as const
    const scratch = yield* f32("qkv", HD + 2 * GD)
    const shared = function* (label: string) {
      return {
        qkv: options.save && config.qkNorm ? yield* f32(`${label}qkv`, HD + 2 * GD) : scratch,
        rstd1: yield* f32(`${label}rstd1`, 1),
        normed1: yield* f32(`${label}normed1`, C),
        loraQkv: yield* f32(`${label}lora_qkv`, 3 * rank),
        q: yield* f32(`${label}q`, HD),
        k: yield* f32(`${label}k`, GD),
        v: yield* f32(`${label}v`, GD),
        attended: yield* f32(`${label}attended`, HD),
        stat: yield* f32(`${label}stat`, 2 * config.numHeads),
        loraO: yield* f32(`${label}lora_o`, rank),
        middle: yield* f32(`${label}middle`, C),
        rstd2: yield* f32(`${label}rstd2`, 1),
        normed2: yield* f32(`${label}normed2`, C),
        loraGateUp: yield* f32(`${label}lora_gate_up`, 2 * rank),
        gateUp: yield* f32(`${label}gate_up`, 2 * F),
        activated: yield* f32(`${label}activated`, F),
        loraDown: yield* f32(`${label}lora_down`, rank)
      }
    }
    const layers: Array<LayerActivations> = []
    let one: Omit<LayerActivations, "x"> | undefined
    for (let i = 0; i < config.numLayers; i++) {
      const x = i > 0 && options.save ? yield* f32(`${i}.x`, C) : residual[i % 2 === 0 ? 0 : 1]
      const own = options.save ? yield* shared(`${i}.`) : (one ??= yield* shared(""))
      layers.push({ x, ...own })
    }
    const last = options.save ? residual[1] : residual[config.numLayers % 2 === 0 ? 0 : 1]
    const gradients: GradientWorkspace | null = options.save
      ? {
          dx: yield* f32("dx", C),
          dHidden: yield* f32("d_hidden", C),
          dActivated: yield* f32("d_activated", F),
          dGateUp: yield* f32("d_gate_up", 2 * F),
          dNormed: yield* f32("d_normed", C),
          dAttended: yield* f32("d_attended", HD),
          dq: yield* f32("dq", HD),
          dk: yield* f32("dk", GD),
          dv: yield* f32("dv", GD),
          dQkv: yield* f32("d_qkv", HD + 2 * GD),
          dLora: yield* f32("d_lora", 3 * rank),
          columnScratch: yield* gpu.alloc(
            "activation.column_scratch",
            "f32",
            (Math.ceil(n / 128) + 1) * Math.max(C, HD + 2 * GD)
          )
        }
      : null
    return {
      capacity: n,
      save: options.save,
      layers,
      last,
      rstd: yield* f32("rstd", 1),
      hidden: yield* f32("hidden", C),
      gradients
    }
  })

/** The most packed rows whose widest activation one storage binding of the device still holds, a multiple of 64. */
export const rowLimit = (config: ModelConfig, info: AdapterInfo): number => {
  const heads = (config.numHeads + 2 * config.numKeyValueHeads) * config.headDim
  const widest = Math.max(2 * config.intermediateSize, heads, config.hiddenSize)
  const { maxStorageBufferBindingSize, maxBufferSize } = info.limits
  const binding = Math.min(maxStorageBufferBindingSize ?? 2 ** 31 - 4, maxBufferSize ?? 2 ** 31 - 4)
  return Math.max(64, Math.floor(binding / (4 * widest) / 64) * 64)
}
