/**
 * The decoder (Qwen2, Llama, Qwen3) over packed rows, forward and backward, recorded on a tape.
 *
 * Parts stand in the order of the computation: attention block, MLP block, final norm. The adapter's low-rank product
 * rides in the same matmul as its base weight. Backward needs a workspace that saved, computes again what its mode did not
 * keep, and consumes what it kept; gradients go to the adapter, to all weights, or to neither (`dx` only).
 */
import { denseTensor, type Ops, type Tape, type Tensor } from "@srcode/gpu"
import type { Batch } from "./Batch.ts"
import type { ModelConfig } from "./Config.ts"
import { layerParts, linearBackward, makeContext } from "./internal/layer.ts"
import type { Lora, LoraTensors } from "./Lora.ts"
import type { CachedRows } from "./PagedCache.ts"
import type { RopeTables } from "./Rope.ts"
import type { Weights } from "./Weights.ts"
import type { Checkpointing, Workspace } from "./Workspace.ts"

/** What a forward pass runs with. */
export interface Decoder {
  readonly config: ModelConfig
  readonly weights: Weights
  readonly rope: RopeTables
}

/** Where gradients are accumulated. */
export interface GradientTarget {
  readonly lora?: LoraTensors
  readonly weights?: Weights
}

/**
 * Records the forward pass of `batch` and leaves normed final states in `ws.hidden` [rows, C]. With `cache` each row attends to its
 * own sequence there (of the batch only ids, positions and kvRow are read); without it the batch attends to itself.
 */
export const forward = (
  tape: Tape,
  ops: Ops,
  decoder: Decoder,
  lora: Lora | null,
  batch: Batch,
  ws: Workspace,
  cache?: CachedRows
): void => {
  const { config, weights } = decoder
  const { rows } = batch
  tape.require(
    rows <= ws.capacity && rows <= batch.capacity,
    "forward",
    `${rows} rows exceed a capacity of ${Math.min(ws.capacity, batch.capacity)}`
  )
  const ctx = makeContext(tape, ops, decoder, lora, batch, ws.save, cache)
  const { C } = ctx
  ops.gatherRows(tape, { table: weights.embed, id: batch.ids, out: ws.layers[0]?.x ?? ws.last, rows, dim: C })
  weights.layers.forEach((w, i) => {
    const s = ws.layers[i]
    if (s === undefined) return
    const part = layerParts(ctx, i, w, s)
    part.norm1()
    part.qkv()
    part.rope()
    part.attention()
    part.o()
    part.norm2()
    part.gateUp()
    part.swiglu()
    part.down(ws.layers[i + 1]?.x ?? ws.last)
  })
  ops.rmsNorm(tape, { x: ws.last, w: weights.norm, y: ws.hidden, rstd: ws.rstd, rows, dim: C, eps: config.rmsNormEps })
}

/** Runs again what the layer did not keep, all but the parts of `selective` that backward runs just in time. */
const computeAgain = (part: ReturnType<typeof layerParts>, checkpointing: Checkpointing): void => {
  if (checkpointing === "none") return
  if (checkpointing === "layer") {
    part.norm1()
    part.qkv()
    part.rope()
    part.attention()
    part.o()
    part.norm2()
    part.gateUp()
    part.swiglu()
    part.downAgain()
  } else {
    part.norm2()
    part.gateUpAgain()
    part.swiglu()
  }
}

/**
 * Records the backward pass from the gradient of `ws.hidden`, which stands in `ws.gradients.dHidden`. Adds to the
 * targets; the embedding's share of a full gradient needs the batch sorted by token (`embedOrder`).
 */
export const backward = (
  tape: Tape,
  ops: Ops,
  decoder: Decoder,
  lora: Lora | null,
  batch: Batch,
  ws: Workspace,
  grads: GradientTarget,
  embedOrder?: { readonly start: Tensor<"u32">; readonly order: Tensor<"u32"> }
): void => {
  const { config, weights, rope } = decoder
  const { rows } = batch
  const g = ws.gradients
  tape.require(g !== null, "backward", "the workspace was made without save")
  tape.require(
    !(config.qkNorm && grads.weights),
    "backward",
    `${config.modelType} cannot be trained in all parameters: its q and k norms are frozen; train an adapter`
  )
  if (g === null) return
  const ctx = makeContext(tape, ops, decoder, lora, batch, true)
  const { shape, C, HD, QKV, FF } = ctx

  if (grads.weights)
    ops.rmsNormBackwardWeight(tape, {
      x: ws.last,
      rstd: ws.rstd,
      dy: g.dHidden,
      dw: grads.weights.norm,
      scratch: g.columnScratch,
      rows,
      dim: C
    })
  ops.rmsNormBackward(tape, {
    x: ws.last,
    w: weights.norm,
    rstd: ws.rstd,
    dy: g.dHidden,
    dx: g.dx,
    rows,
    dim: C,
    accumulate: false
  })
  for (let i = config.numLayers - 1; i >= 0; i--) {
    const [w, s, dw] = [weights.layers[i], ws.layers[i], grads.weights?.layers[i]]
    if (w === undefined || s === undefined) continue
    const part = layerParts(ctx, i, w, s)
    if (i + 1 < config.numLayers) computeAgain(part, ws.checkpointing)
    linearBackward(ctx, "down", i, grads, {
      x: s.activated,
      w: w.down,
      dy: g.dx,
      dx: g.dActivated,
      down: s.loraDown,
      dLora: g.dLora,
      out: C,
      in: FF
    })
    ops.swigluBackward(tape, { gu: s.gateUp, dy: g.dActivated, rows, dim: FF })
    linearBackward(ctx, "gateUp", i, grads, {
      x: s.normed2,
      w: w.gateUp,
      dy: s.gateUp,
      dx: g.dNormed,
      down: s.loraGateUp,
      dLora: g.dLora,
      out: 2 * FF,
      in: C
    })
    if (dw)
      ops.rmsNormBackwardWeight(tape, {
        x: s.middle,
        rstd: s.rstd2,
        dy: g.dNormed,
        dw: dw.norm2,
        scratch: g.columnScratch,
        rows,
        dim: C
      })
    ops.rmsNormBackward(tape, {
      x: s.middle,
      w: w.norm2,
      rstd: s.rstd2,
      dy: g.dNormed,
      dx: g.dx,
      rows,
      dim: C,
      accumulate: true
    })
    linearBackward(ctx, "o", i, grads, {
      x: s.attended,
      w: w.o,
      dy: g.dx,
      dx: g.dAttended,
      down: s.loraO,
      dLora: g.dLora,
      out: C,
      in: HD
    })
    if (ws.checkpointing === "selective" && config.qkNorm) part.rope()
    ops.attentionBackward(tape, {
      ...shape,
      q: s.q,
      k: s.k,
      v: s.v,
      o: s.attended,
      dO: g.dAttended,
      stat: s.stat,
      kvStart: batch.kvStart,
      qEnd: batch.qEnd,
      dq: g.dq,
      dk: g.dk,
      dv: g.dv
    })
    ops.ropeBackward(tape, {
      ...shape,
      dq: g.dq,
      dk: g.dk,
      dv: g.dv,
      position: batch.position,
      table: rope.table,
      dqkv: g.dQkv,
      norm: w.qkNorm ? { weight: w.qkNorm, eps: config.rmsNormEps, qkv: s.qkv } : undefined
    })
    if (ws.checkpointing === "selective") part.norm1()
    if (dw?.qkvBias)
      ops.columnSum(tape, { x: g.dQkv, out: dw.qkvBias, rows, cols: QKV, accumulate: true, scratch: g.columnScratch })
    linearBackward(ctx, "qkv", i, grads, {
      x: s.normed1,
      w: w.qkv,
      dy: g.dQkv,
      dx: g.dNormed,
      down: s.loraQkv,
      dLora: g.dLora,
      out: QKV,
      in: C
    })
    if (dw)
      ops.rmsNormBackwardWeight(tape, {
        x: s.x,
        rstd: s.rstd1,
        dy: g.dNormed,
        dw: dw.norm1,
        scratch: g.columnScratch,
        rows,
        dim: C
      })
    ops.rmsNormBackward(tape, {
      x: s.x,
      w: w.norm1,
      rstd: s.rstd1,
      dy: g.dNormed,
      dx: g.dx,
      rows,
      dim: C,
      accumulate: true
    })
  }
  const dtable = grads.weights && denseTensor(grads.weights.embed)
  if (dtable && embedOrder) {
    ops.scatterRows(tape, {
      dy: g.dx,
      ...embedOrder,
      dtable,
      rows: config.vocabSize,
      dim: C,
      accumulate: true
    })
  }
}
