/**
 * Activation buffers for up to `capacity` packed rows: what each layer keeps for its backward pass, and one set of shared
 * buffers for everything else.
 *
 * How much is kept is the checkpointing mode; what is not kept is computed again in backward, by the same kernels from the
 * same inputs, so the mode changes bytes and time but not one bit of a gradient (Chen et al. 2016).
 * - `none`: everything that backward reads.
 * - `selective`: what is dear to compute for its size: the layer's input, q, k, v (of normed heads their projection), the
 *   attention's output and statistics, the state after it, the adapter's low-rank products. Norms, gate and up, and their
 *   product are computed again.
 * - `layer`: the layer's input alone.
 *
 * The last layer's tensors survive until backward in any mode, so it is not computed twice. Backward consumes what was
 * saved (the gradient of gate and up is written over them): one backward pass a forward pass.
 */

import { type AdapterInfo, Gpu, type GpuError, type Tensor } from "@srcode/gpu"
import { Effect, type Scope } from "effect"
import type { ModelConfig } from "./Config.ts"
import { allocShared, type Lifetime, type Span, snake } from "./internal/lifetimes.ts"

type F = Tensor<"f32">

export type Checkpointing = "none" | "selective" | "layer"

/** One layer's activations; shapes by row: C hidden, H/G query/kv heads, D head size, F intermediate. */
export interface LayerActivations {
  readonly x: F // [C] residual stream at the layer's entry
  readonly rstd1: F
  readonly normed1: F // [C]
  readonly qkv: F // [(H + 2G) D]
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
  readonly gateUp: F // [2F]; backward leaves its gradient here
  readonly activated: F // [F]
  readonly loraDown: F
}

/** Gradient buffers shared by all layers. */
export interface GradientWorkspace {
  readonly dx: F // [C]
  readonly dHidden: F // [C]
  readonly dActivated: F // [F]
  readonly dNormed: F // [C]
  readonly dAttended: F // [H D]
  readonly dq: F
  readonly dk: F
  readonly dv: F
  readonly dQkv: F
  readonly dLora: F // [3 rank]
  readonly columnScratch: F
}

/** What the head needs between forward and backward, in elements; see `headElements`. */
export interface HeadElements {
  readonly logits?: number
  readonly refLogits?: number
  readonly selected?: number
  readonly dSelected?: number
}

export type HeadScratch = { readonly [name in keyof HeadElements]?: F | undefined }

export interface Workspace {
  readonly capacity: number
  readonly save: boolean
  readonly checkpointing: Checkpointing
  readonly layers: ReadonlyArray<LayerActivations>
  readonly last: F // [C] residual stream after the last layer
  readonly rstd: F
  /** [C] after the final norm. Holds until `head` or `gradients` are written to. */
  readonly hidden: F
  readonly gradients: GradientWorkspace | null
  readonly head: HeadScratch
}

/**
 * The order of the steps that read and write. Forward runs the first line once a layer, then the second; backward starts
 * with the third and runs the fourth once a layer from the last, after computing again what the layer did not keep
 * (again the first line). `d…Own` are the gradients of a linear layer's own parameters.
 */
const order = [
  ...(["entry", "norm1", "qkv", "rope", "attention", "o", "norm2", "gateUp", "swiglu", "down"] as const),
  ...(["finalNorm", "select", "head"] as const),
  ...(["scatter", "dFinalNorm"] as const),
  ...(["dDownOwn", "dDown", "dSwiglu", "dGateUpOwn", "dGateUp", "dNorm2", "dOOwn", "dO"] as const),
  ...(["reRope", "dAttention", "dRope", "reNorm1", "dQkvOwn", "dQkv", "dNorm1"] as const)
]
type Step = (typeof order)[number]

/** Written and last read in forward; last read in backward; `again`: where `selective` computes it just in time. */
interface LayerLifetime {
  readonly width: number
  readonly forward: Span<Step>
  readonly backward?: Step | undefined
  readonly again?: Step
}

const layerLifetimes = (config: ModelConfig, rank: number) => {
  const [C, F, H, D] = [config.hiddenSize, config.intermediateSize, config.numHeads, config.headDim]
  const GD = config.numKeyValueHeads * D
  const lifetimes: Readonly<Record<Exclude<keyof LayerActivations, "x">, LayerLifetime>> = {
    rstd1: { width: 1, forward: ["norm1", "norm1"], backward: "dNorm1", again: "reNorm1" },
    normed1: { width: C, forward: ["norm1", "qkv"], backward: "dQkvOwn", again: "reNorm1" },
    qkv: { width: H * D + 2 * GD, forward: ["qkv", "rope"], backward: config.qkNorm ? "dRope" : undefined },
    loraQkv: { width: 3 * rank, forward: ["qkv", "qkv"], backward: "dQkvOwn" },
    q: { width: H * D, forward: ["rope", "attention"], backward: "dAttention", again: "reRope" },
    k: { width: GD, forward: ["rope", "attention"], backward: "dAttention", again: "reRope" },
    v: { width: GD, forward: ["rope", "attention"], backward: "dAttention", again: "reRope" },
    attended: { width: H * D, forward: ["attention", "o"], backward: "dAttention" },
    stat: { width: 2 * H, forward: ["attention", "attention"], backward: "dAttention" },
    loraO: { width: rank, forward: ["o", "o"], backward: "dOOwn" },
    middle: { width: C, forward: ["o", "down"], backward: "dNorm2" },
    rstd2: { width: 1, forward: ["norm2", "norm2"], backward: "dNorm2" },
    normed2: { width: C, forward: ["norm2", "gateUp"], backward: "dGateUpOwn" },
    loraGateUp: { width: 2 * rank, forward: ["gateUp", "gateUp"], backward: "dGateUpOwn" },
    gateUp: { width: 2 * F, forward: ["gateUp", "swiglu"], backward: "dGateUp" },
    activated: { width: F, forward: ["swiglu", "down"], backward: "dDownOwn" },
    loraDown: { width: rank, forward: ["down", "down"], backward: "dDownOwn" }
  }
  return lifetimes
}

const headNames: ReadonlyArray<keyof HeadElements> = ["logits", "refLogits", "selected", "dSelected"]

/** The head's scratch; the logits of a reference are made before forward or beside the policy's, never across a layer. */
const headLifetimes: Readonly<Record<keyof HeadElements, Span<Step>>> = {
  logits: ["head", "head"],
  refLogits: ["head", "head"],
  selected: ["select", "head"],
  dSelected: ["head", "scatter"]
}

/** Gradients between layers, of widths by row. While a layer is computed again, the gradient from above waits in dx. */
const gradientLifetimes = (config: ModelConfig, rank: number, again: boolean) => {
  const [C, HD, GD] = [config.hiddenSize, config.numHeads * config.headDim, config.numKeyValueHeads * config.headDim]
  const waiting: ReadonlyArray<Span<Step>> = again ? [["norm1", "down"]] : []
  const lifetimes: Readonly<
    Record<Exclude<keyof GradientWorkspace, "columnScratch">, readonly [number, ...Array<Span<Step>>]>
  > = {
    dx: [C, ...waiting, ["dFinalNorm", "dNorm1"]],
    dHidden: [C, ["scatter", "dFinalNorm"]],
    dActivated: [config.intermediateSize, ["dDown", "dSwiglu"]],
    dNormed: [C, ["dGateUp", "dNorm2"], ["dQkv", "dNorm1"]],
    dAttended: [HD, ["dO", "dAttention"]],
    dq: [HD, ["dAttention", "dRope"]],
    dk: [GD, ["dAttention", "dRope"]],
    dv: [GD, ["dAttention", "dRope"]],
    dQkv: [HD + 2 * GD, ["dRope", "dQkv"]],
    dLora: [3 * rank, ["dDownOwn", "dDown"], ["dGateUpOwn", "dGateUp"], ["dOOwn", "dO"], ["dQkvOwn", "dQkv"]]
  }
  return lifetimes
}

/** What `selective` keeps a layer beside its input. */
const selected = (qkNorm: boolean): ReadonlyArray<string> => [
  ...(qkNorm ? ["qkv"] : ["q", "k", "v"]),
  ...["attended", "stat", "middle", "loraQkv", "loraO", "loraGateUp", "loraDown"]
]

export interface WorkspaceOptions {
  readonly capacity: number
  /** Keep what backward needs. */
  readonly save: boolean
  readonly rank: number
  /** Only with `save`; default `none`. */
  readonly checkpointing?: Checkpointing
  /** Scratch of the head, laid over buffers that are free between forward and backward. */
  readonly head?: HeadElements
}

/** The tensors that share buffers, by the mode. */
const sharedTensors = (config: ModelConfig, options: WorkspaceOptions): ReadonlyArray<Lifetime<Step>> => {
  const { capacity: n, save, checkpointing = "none" } = options
  const C = config.hiddenSize
  const rank = Math.max(1, options.rank)
  const tensors: Array<Lifetime<Step>> = []
  const share = (name: string, elements: number, ...spans: ReadonlyArray<Span<Step>>) =>
    tensors.push({ name, elements, spans })
  for (const [name, { width, forward, backward, again }] of Object.entries(layerLifetimes(config, rank))) {
    const [written] = forward
    // Where nothing is kept, the product of gate and up may write their outcome itself while it reads its operands.
    const held: Span<Step> = !save && name === "activated" ? ["gateUp", forward[1]] : forward
    if (!save || backward === undefined) share(name, n * width, held)
    else if (checkpointing === "layer") share(name, n * width, [written, backward])
    else if (checkpointing === "selective" && !selected(config.qkNorm).includes(name)) {
      if (again) share(name, n * width, forward, [again, backward])
      else share(name, n * width, [written, backward])
    }
  }
  // Without saving one buffer carries the residual stream through all layers: a layer's end does not read its entry.
  if (save) share("last", n * C, ["down", "dFinalNorm"])
  else share("last", n * C, ["entry", "o"], ["down", "finalNorm"])
  share("rstd", n, ["finalNorm", save ? "dFinalNorm" : "finalNorm"])
  share("hidden", n * C, ["finalNorm", "select"])
  for (const name of headNames) {
    const elements = options.head?.[name]
    if (elements !== undefined) share(name, elements, headLifetimes[name])
  }
  if (save) {
    for (const [name, [width, ...spans]] of Object.entries(gradientLifetimes(config, rank, checkpointing !== "none")))
      share(name, n * width, ...spans)
    const widest = Math.max(C, (config.numHeads + 2 * config.numKeyValueHeads) * config.headDim)
    const uses: ReadonlyArray<Step> = ["dFinalNorm", "dNorm2", "dQkvOwn", "dNorm1"]
    share("columnScratch", (Math.ceil(n / 128) + 1) * widest, ...uses.map((at): Span<Step> => [at, at]))
  }
  return tensors
}

export const allocWorkspace = (
  config: ModelConfig,
  options: WorkspaceOptions
): Effect.Effect<Workspace, GpuError, Gpu | Scope.Scope> =>
  Effect.gen(function* () {
    const gpu = yield* Gpu
    const { capacity, save, checkpointing = "none" } = options
    const shared = yield* allocShared("activation", order, sharedTensors(config, options))
    const widths = layerLifetimes(config, Math.max(1, options.rank))
    /** The shared tensor of that name, or a new one of the layer's own. */
    const get = (name: string, width: number, label = snake(name)) => {
      const found = shared.get(name)
      return found ? Effect.succeed(found) : gpu.alloc(`activation.${label}`, "f32", capacity * width)
    }
    const last = yield* get("last", config.hiddenSize)
    const layers: Array<LayerActivations> = []
    for (let i = 0; i < config.numLayers; i++) {
      const own = (name: keyof typeof widths) => get(name, widths[name].width, `${i}.${snake(name)}`)
      layers.push({
        x: save ? yield* gpu.alloc(`activation.${i}.x`, "f32", capacity * config.hiddenSize) : last,
        rstd1: yield* own("rstd1"),
        normed1: yield* own("normed1"),
        qkv: yield* own("qkv"),
        loraQkv: yield* own("loraQkv"),
        q: yield* own("q"),
        k: yield* own("k"),
        v: yield* own("v"),
        attended: yield* own("attended"),
        stat: yield* own("stat"),
        loraO: yield* own("loraO"),
        middle: yield* own("middle"),
        rstd2: yield* own("rstd2"),
        normed2: yield* own("normed2"),
        loraGateUp: yield* own("loraGateUp"),
        gateUp: yield* own("gateUp"),
        activated: yield* own("activated"),
        loraDown: yield* own("loraDown")
      })
    }
    const gradients: GradientWorkspace | null = save
      ? {
          dx: yield* get("dx", 0),
          dHidden: yield* get("dHidden", 0),
          dActivated: yield* get("dActivated", 0),
          dNormed: yield* get("dNormed", 0),
          dAttended: yield* get("dAttended", 0),
          dq: yield* get("dq", 0),
          dk: yield* get("dk", 0),
          dv: yield* get("dv", 0),
          dQkv: yield* get("dQkv", 0),
          dLora: yield* get("dLora", 0),
          columnScratch: yield* get("columnScratch", 0)
        }
      : null
    return {
      capacity,
      save,
      checkpointing,
      layers,
      last,
      rstd: yield* get("rstd", 1),
      hidden: yield* get("hidden", config.hiddenSize),
      gradients,
      head: {
        logits: shared.get("logits"),
        refLogits: shared.get("refLogits"),
        selected: shared.get("selected"),
        dSelected: shared.get("dSelected")
      }
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
