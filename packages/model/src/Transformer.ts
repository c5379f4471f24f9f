/**
 * The decoder (Qwen2, Llama, Qwen3) over packed rows, forward and backward, recorded on a tape.
 *
 * Parts stand in the order of the computation: attention block, MLP block, final norm. The adapter's low-rank product
 * rides in the same matmul as its base weight. Backward recomputes nothing and needs a workspace that saved; gradients
 * go to the adapter, to all weights, or to neither (`dx` only).
 */
import { denseTensor, type HeadShape, type Matrix, type Ops, type Tape, type Tensor } from "@srcode/gpu"
import type { Batch } from "./Batch.ts"
import type { ModelConfig } from "./Config.ts"
import type { FusedLinear, Lora, LoraPart, LoraTensors } from "./Lora.ts"
import type { CachedRows } from "./PagedCache.ts"
import type { RopeTables } from "./Rope.ts"
import type { Weights } from "./Weights.ts"
import type { Workspace } from "./Workspace.ts"

type F = Tensor<"f32">

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

interface Context {
  readonly tape: Tape
  readonly ops: Ops
  readonly decoder: Decoder
  readonly lora: Lora | null
  readonly rows: number
}

const headShape = (config: ModelConfig, rows: number): HeadShape => ({
  rows,
  heads: config.numHeads,
  kvHeads: config.numKeyValueHeads,
  headDim: config.headDim
})

/** y [rows, out] = x W' (+ bias, + residual); keeps the scaled A output for backward. */
const linear = (
  ctx: Context,
  part: LoraPart | undefined,
  args: { x: F; w: Matrix; y: F; down: F; out: number; in: number; bias?: F | null; residual?: F }
): void => {
  const { tape, ops, rows } = ctx
  if (part && ctx.lora) {
    ops.matmulNT(tape, {
      a: args.x,
      b: part.a,
      out: args.down,
      m: rows,
      n: part.width,
      k: args.in,
      alpha: ctx.lora.scale
    })
  }
  ops.matmulNT(tape, {
    a: args.x,
    b: args.w,
    out: args.y,
    m: rows,
    n: args.out,
    k: args.in,
    ...(args.bias ? { bias: args.bias } : {}),
    ...(args.residual ? { residual: args.residual } : {}),
    ...(part && ctx.lora ? { extra: { a: args.down, b: part.b, k: part.width } } : {})
  })
}

/** Gradients of `linear`: dx, and those of its adapter or its weight. `down` is what forward kept; dLora is scratch. */
const linearBackward = (
  ctx: Context,
  fused: FusedLinear,
  layer: number,
  grads: GradientTarget,
  args: { x: F; w: Matrix; dy: F; dx: F; down: F; dLora: F; out: number; in: number }
): void => {
  const { tape, ops, rows } = ctx
  const part = ctx.lora?.params.layers[layer]?.[fused]
  if (part && ctx.lora) {
    const { width } = part
    ops.matmulNN(tape, {
      a: args.dy,
      b: part.b,
      out: args.dLora,
      m: rows,
      n: width,
      k: args.out,
      alpha: ctx.lora.scale
    })
    const into = grads.lora?.layers[layer]?.[fused]
    if (into) {
      ops.matmulTN(tape, { a: args.dLora, b: args.x, out: into.a, m: width, n: args.in, k: rows, accumulate: true })
      ops.matmulTN(tape, { a: args.dy, b: args.down, out: into.b, m: args.out, n: width, k: rows, accumulate: true })
      ops.loraMask(tape, { db: into.b, rows: args.out, rank: ctx.lora.rank, ends: into.ends })
    }
  }
  const key = fused
  const target = grads.weights?.layers[layer]?.[key]
  const dw = target && denseTensor(target)
  if (dw) ops.matmulTN(tape, { a: args.dy, b: args.x, out: dw, m: args.out, n: args.in, k: rows, accumulate: true })
  ops.matmulNN(tape, {
    a: args.dy,
    b: args.w,
    out: args.dx,
    m: rows,
    n: args.in,
    k: args.out,
    ...(part ? { extra: { a: args.dLora, b: part.a, k: part.width } } : {})
  })
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
  const { config, weights, rope } = decoder
  const { rows } = batch
  tape.require(
    rows <= ws.capacity && rows <= batch.capacity,
    "forward",
    `${rows} rows exceed a capacity of ${Math.min(ws.capacity, batch.capacity)}`
  )
  const ctx: Context = { tape, ops, decoder, lora, rows }
  const shape = headShape(config, rows)
  const [C, HD, QKV, FF] = [
    config.hiddenSize,
    shape.heads * shape.headDim,
    (shape.heads + 2 * shape.kvHeads) * shape.headDim,
    config.intermediateSize
  ]
  const eps = config.rmsNormEps

  ops.gatherRows(tape, { table: weights.embed, id: batch.ids, out: ws.layers[0]?.x ?? ws.last, rows, dim: C })
  weights.layers.forEach((w, i) => {
    const s = ws.layers[i]
    if (s === undefined) return
    const part = lora?.params.layers[i]
    const { k, v } = cache?.layers[i] ?? s
    ops.rmsNorm(tape, { x: s.x, w: w.norm1, y: s.normed1, rstd: s.rstd1, rows, dim: C, eps })
    linear(ctx, part?.qkv, { x: s.normed1, w: w.qkv, y: s.qkv, down: s.loraQkv, out: QKV, in: C, bias: w.qkvBias })
    ops.rope(tape, {
      ...shape,
      qkv: s.qkv,
      position: batch.position,
      kvRow: batch.kvRow,
      table: rope.table,
      q: s.q,
      k,
      v,
      norm: w.qkNorm ? { weight: w.qkNorm, eps } : undefined
    })
    if (cache) ops.attentionPaged(tape, { ...shape, ...cache, q: s.q, k, v, position: batch.position, o: s.attended })
    else
      ops.attention(tape, {
        ...shape,
        q: s.q,
        k,
        v,
        kvStart: batch.kvStart,
        kvEnd: batch.kvEnd,
        o: s.attended,
        stat: s.stat,
        packed: true
      })
    linear(ctx, part?.o, { x: s.attended, w: w.o, y: s.middle, down: s.loraO, out: C, in: HD, residual: s.x })
    ops.rmsNorm(tape, { x: s.middle, w: w.norm2, y: s.normed2, rstd: s.rstd2, rows, dim: C, eps })
    linear(ctx, part?.gateUp, { x: s.normed2, w: w.gateUp, y: s.gateUp, down: s.loraGateUp, out: 2 * FF, in: C })
    ops.swiglu(tape, { gu: s.gateUp, y: s.activated, rows, dim: FF })
    const next = ws.layers[i + 1]?.x ?? ws.last
    linear(ctx, part?.down, {
      x: s.activated,
      w: w.down,
      y: next,
      down: s.loraDown,
      out: C,
      in: FF,
      residual: s.middle
    })
  })
  ops.rmsNorm(tape, { x: ws.last, w: weights.norm, y: ws.hidden, rstd: ws.rstd, rows, dim: C, eps })
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
  const ctx: Context = { tape, ops, decoder, lora, rows }
  const shape = headShape(config, rows)
  const [C, HD, QKV, FF] = [
    config.hiddenSize,
    shape.heads * shape.headDim,
    (shape.heads + 2 * shape.kvHeads) * shape.headDim,
    config.intermediateSize
  ]

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
    ops.swigluBackward(tape, { gu: s.gateUp, dy: g.dActivated, dgu: g.dGateUp, rows, dim: FF })
    linearBackward(ctx, "gateUp", i, grads, {
      x: s.normed2,
      w: w.gateUp,
      dy: g.dGateUp,
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
