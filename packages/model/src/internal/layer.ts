/** The parts of a decoder layer's forward pass, in order; backward runs some of them again. And linear layers both ways. */
import { denseTensor, type Fused, type HeadShape, type Matrix, type Ops, type Tape, type Tensor } from "@srcode/gpu"
import type { Batch } from "../Batch.ts"
import type { FusedLinear, Lora, LoraPart } from "../Lora.ts"
import type { CachedRows } from "../PagedCache.ts"
import type { Decoder, GradientTarget } from "../Transformer.ts"
import type { LayerWeights } from "../Weights.ts"
import type { LayerActivations } from "../Workspace.ts"

type F = Tensor<"f32">

export interface Context {
  readonly tape: Tape
  readonly ops: Ops
  readonly decoder: Decoder
  readonly lora: Lora | null
  readonly batch: Batch
  readonly cache: CachedRows | undefined
  /** Whether something is kept for backward. */
  readonly save: boolean
  /** Heads and rows; and the widths of the hidden state, the heads, their fused projection, the MLP. */
  readonly shape: HeadShape
  readonly C: number
  readonly HD: number
  readonly QKV: number
  readonly FF: number
}

export const makeContext = (
  tape: Tape,
  ops: Ops,
  decoder: Decoder,
  lora: Lora | null,
  batch: Batch,
  save: boolean,
  cache?: CachedRows
): Context => {
  const { numHeads: heads, numKeyValueHeads: kvHeads, headDim, hiddenSize: C, intermediateSize: FF } = decoder.config
  const shape = { rows: batch.rows, heads, kvHeads, headDim }
  const widths = { C, HD: heads * headDim, QKV: (heads + 2 * kvHeads) * headDim, FF }
  return { tape, ops, decoder, lora, batch, cache, save, shape, ...widths }
}

const capacityOf = ({ batch }: Context) => (batch.mostRows === undefined ? {} : { capacity: batch.mostRows })

/** The scaled A output of an adapter: down [rows, width] = scale · x A'. */
const adapterDown = (ctx: Context, part: LoraPart | undefined, x: F, down: F, k: number, norm?: RowNorm): void => {
  if (part === undefined || ctx.lora === null) return
  const { tape, ops, shape, lora } = ctx
  const product = { a: x, b: part.a, out: down, m: shape.rows, n: part.width, k, alpha: lora.scale }
  ops.matmulNT(tape, { ...product, ...capacityOf(ctx), ...(norm ? { norm } : {}) })
}

interface RowNorm {
  readonly weight: F
  readonly eps: number
}

interface LinearArgs {
  readonly x: F
  readonly w: Matrix
  readonly y: F
  readonly down: F
  readonly out: number
  readonly in: number
  readonly bias?: F | null
  readonly residual?: F
  /** x is to be normed first, by the product itself. */
  readonly norm?: RowNorm
  /** y [rows, out / 2] = silu(first half) · second half. */
  readonly gated?: boolean
}

/** y [rows, out] = x W' (+ bias, + residual), with the adapter's share from `down`, which stands there. */
const baseLinear = (ctx: Context, part: LoraPart | undefined, args: LinearArgs): void =>
  ctx.ops.matmulNT(ctx.tape, {
    a: args.x,
    b: args.w,
    out: args.y,
    m: ctx.shape.rows,
    n: args.out,
    k: args.in,
    ...capacityOf(ctx),
    ...(args.bias ? { bias: args.bias } : {}),
    ...(args.residual ? { residual: args.residual } : {}),
    ...(args.norm ? { norm: args.norm } : {}),
    ...(args.gated ? { gated: true } : {}),
    ...(part && ctx.lora ? { extra: { a: args.down, b: part.b, k: part.width } } : {})
  })

/** As `baseLinear`, after making `down`, which is kept for backward. */
const linear = (ctx: Context, part: LoraPart | undefined, args: LinearArgs): void => {
  adapterDown(ctx, part, args.x, args.down, args.in, args.norm)
  baseLinear(ctx, part, args)
}

/**
 * What the products of `linear` take along: the norm of their input (the base's and the adapter's both, for they read the same), and the
 * gate. Nothing where backward will want the normed rows, or where the rows may be many.
 */
const fusedLinear = (ctx: Context, part: LoraPart | undefined, w: Matrix, out: number, inner: number): Fused => {
  if (ctx.save || ctx.batch.mostRows === undefined) return { norm: false, gated: false }
  const adapter = ctx.lora ? part : undefined
  const extra = adapter && { k: adapter.width }
  const base = ctx.ops.fused({ b: w, n: out, k: inner, extra, ...capacityOf(ctx) })
  if (adapter === undefined) return base
  const down = ctx.ops.fused({ b: adapter.a, n: adapter.width, k: inner, ...capacityOf(ctx) })
  return { norm: base.norm && down.norm, gated: base.gated && down.norm }
}

/** Gradients of `linear`: dx, and those of its adapter or its weight. `down` is what forward kept; dLora is scratch. */
export const linearBackward = (
  ctx: Context,
  fused: FusedLinear,
  layer: number,
  grads: GradientTarget,
  args: { x: F; w: Matrix; dy: F; dx: F; down: F; dLora: F; out: number; in: number }
): void => {
  const { tape, ops } = ctx
  const { rows } = ctx.shape
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
  const target = grads.weights?.layers[layer]?.[fused]
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

/** One layer's forward pass in parts, named as the steps of `Workspace.ts`. A part does nothing where a product took it along. */
export const layerParts = (ctx: Context, layer: number, w: LayerWeights, s: LayerActivations) => {
  const { tape, ops, decoder, batch, cache, shape, C, HD, QKV, FF } = ctx
  const { rows } = shape
  const eps = decoder.config.rmsNormEps
  const part = ctx.lora?.params.layers[layer]
  const { k, v } = cache?.layers[layer] ?? s
  const fused1 = fusedLinear(ctx, part?.qkv, w.qkv, QKV, C).norm
  const fused2 = fusedLinear(ctx, part?.gateUp, w.gateUp, 2 * FF, C)
  const input1 = fused1 ? { x: s.x, norm: { weight: w.norm1, eps } } : { x: s.normed1 }
  const input2 = fused2.norm ? { x: s.middle, norm: { weight: w.norm2, eps } } : { x: s.normed2 }
  const output2 = fused2.gated ? { y: s.activated, gated: true } : { y: s.gateUp }
  const gateUp = { ...input2, ...output2, w: w.gateUp, down: s.loraGateUp, out: 2 * FF, in: C }
  return {
    norm1: () => {
      if (!fused1) ops.rmsNorm(tape, { x: s.x, w: w.norm1, y: s.normed1, rstd: s.rstd1, rows, dim: C, eps })
    },
    qkv: () =>
      linear(ctx, part?.qkv, { ...input1, w: w.qkv, y: s.qkv, down: s.loraQkv, out: QKV, in: C, bias: w.qkvBias }),
    rope: () =>
      ops.rope(tape, {
        ...shape,
        qkv: s.qkv,
        position: batch.position,
        kvRow: batch.kvRow,
        table: decoder.rope.table,
        q: s.q,
        k,
        v,
        norm: w.qkNorm ? { weight: w.qkNorm, eps } : undefined
      }),
    attention: () => {
      const { kvStart, kvEnd, position } = batch
      if (cache) ops.attentionPaged(tape, { ...shape, ...cache, q: s.q, k, v, position, o: s.attended })
      else ops.attention(tape, { ...shape, q: s.q, k, v, kvStart, kvEnd, o: s.attended, stat: s.stat, packed: true })
    },
    o: () => linear(ctx, part?.o, { x: s.attended, w: w.o, y: s.middle, down: s.loraO, out: C, in: HD, residual: s.x }),
    norm2: () => {
      if (!fused2.norm) ops.rmsNorm(tape, { x: s.middle, w: w.norm2, y: s.normed2, rstd: s.rstd2, rows, dim: C, eps })
    },
    gateUp: () => linear(ctx, part?.gateUp, gateUp),
    /** With the adapter's low-rank product as it was kept. */
    gateUpAgain: () => baseLinear(ctx, part?.gateUp, gateUp),
    swiglu: () => {
      if (!fused2.gated) ops.swiglu(tape, { gu: s.gateUp, y: s.activated, rows, dim: FF })
    },
    down: (next: F) =>
      linear(ctx, part?.down, {
        x: s.activated,
        w: w.down,
        y: next,
        down: s.loraDown,
        out: C,
        in: FF,
        residual: s.middle
      }),
    /** What backward reads of `down`: the next layer's input is there already. */
    downAgain: () => adapterDown(ctx, part?.down, s.activated, s.loraDown, FF)
  }
}
