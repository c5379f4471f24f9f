/**
 * Launches of the transformer layer's smaller operations: norm, rotary embedding, SwiGLU, embedding, sums.
 *
 * Reductions along a row exist twice: one invocation a row where barriers are dear (drivers that compute on the CPU), one
 * workgroup a row elsewhere.
 */
import type { AdapterInfo } from "../Gpu.ts"
import { denseMatrix, type Matrix } from "../Matrix.ts"
import { grid1d, gridRows, type Tape } from "../Tape.ts"
import type { Tensor } from "../Tensor.ts"

type F = Tensor<"f32">
type U = Tensor<"u32">

/** Invocations a workgroup: small where the driver spreads workgroups over few cores, 64 on hardware. */
export const groupSize = (info: AdapterInfo): number => (info.software ? 8 : 64)

/**
 * How kernels that take a part of a row a workgroup are launched: lanes, columns a workgroup, grid. Whole rows (up to 4096 columns)
 * where starting a workgroup is dear, four columns a lane on hardware.
 */
export const byRows = (info: AdapterInfo, rows: number, cols: number) => {
  const WG = info.software ? 32 : 64
  const span = info.software ? Math.min(cols, 4096) : 4 * WG
  return { constants: { WG }, span, grid: gridRows(rows, cols, span) }
}

/** States that each named tensor holds at least so many elements. */
export const fits = (
  tape: Tape,
  kernel: string,
  needs: ReadonlyArray<readonly [name: string, tensor: Tensor | undefined, elements: number]>
): void => {
  for (const [name, tensor, elements] of needs) {
    if (tensor !== undefined && tensor.length < elements) {
      tape.require(false, kernel, `${name} (${tensor.label}) holds ${tensor.length} of ${elements} elements`)
    }
  }
}

export interface HeadShape {
  readonly rows: number
  readonly heads: number
  readonly kvHeads: number
  readonly headDim: number
}

/** The RMS norm of query and key heads: `weight` [2, headDim], q first. */
export interface HeadNorm {
  readonly weight: F
  readonly eps: number
}

export const makeLayerOps = (info: AdapterInfo) => {
  const WG = groupSize(info)
  const grid = (count: number) => grid1d(count, WG)
  return {
    /** y = x / rms(x) * w by row; rstd [rows] is kept for backward. */
    rmsNorm(tape: Tape, x: { x: F; w: F; y: F; rstd: F; rows: number; dim: number; eps: number }): void {
      const size = x.rows * x.dim
      fits(tape, "rms_norm", [
        ["x", x.x, size],
        ["w", x.w, x.dim],
        ["y", x.y, size],
        ["rstd", x.rstd, x.rows]
      ])
      const bindings = { x: x.x, w: x.w, y: x.y, rstd: x.rstd }
      const params = { rows: x.rows, dim: x.dim, eps: x.eps }
      if (info.software) tape.dispatch("rms_norm_forward", bindings, params, grid(x.rows), { WG })
      else tape.dispatch("rms_norm_forward_workgroup", bindings, params, grid1d(x.rows, 1))
    },
    /** dx (+)= gradient through the norm. */
    rmsNormBackward(
      tape: Tape,
      x: { x: F; w: F; rstd: F; dy: F; dx: F; rows: number; dim: number; accumulate: boolean }
    ): void {
      const size = x.rows * x.dim
      fits(tape, "rms_norm_backward", [
        ["x", x.x, size],
        ["w", x.w, x.dim],
        ["rstd", x.rstd, x.rows],
        ["dy", x.dy, size],
        ["dx", x.dx, size]
      ])
      const bindings = { x: x.x, w: x.w, rstd: x.rstd, dy: x.dy, dx: x.dx }
      const params = { rows: x.rows, dim: x.dim, accumulate: x.accumulate ? 1 : 0 }
      if (info.software) tape.dispatch("rms_norm_backward", bindings, params, grid(x.rows), { WG })
      else tape.dispatch("rms_norm_backward_workgroup", bindings, params, grid1d(x.rows, 1))
    },
    /** dw [dim] += sum over rows of dy * x * rstd; `scratch` holds ceil(rows / 128) * dim elements. */
    rmsNormBackwardWeight(tape: Tape, x: { x: F; rstd: F; dy: F; dw: F; scratch: F; rows: number; dim: number }): void {
      const block = 128
      const blocks = Math.ceil(x.rows / block)
      fits(tape, "rms_norm_backward_weight", [
        ["x", x.x, x.rows * x.dim],
        ["rstd", x.rstd, x.rows],
        ["dy", x.dy, x.rows * x.dim],
        ["dw", x.dw, x.dim],
        ["scratch", x.scratch, blocks * x.dim]
      ])
      tape.dispatch(
        "rms_norm_backward_weight",
        { x: x.x, rstd: x.rstd, dy: x.dy, partial: x.scratch },
        { rows: x.rows, dim: x.dim, block },
        grid(blocks * x.dim),
        { WG }
      )
      tape.dispatch(
        "column_sum_forward",
        { x: x.scratch, out: x.dw },
        { rows: blocks, cols: x.dim, block: blocks, scale: 1, accumulate: 1 },
        grid(x.dim),
        { WG }
      )
    },
    /** out [cols] (+)= scale * column sums of x [rows, cols], in row order. */
    columnSum(
      tape: Tape,
      x: { x: F; out: F; rows: number; cols: number; scale?: number; accumulate?: boolean; scratch?: F }
    ): void {
      const scale = x.scale ?? 1
      const accumulate = x.accumulate === true ? 1 : 0
      const block = 128
      const blocks = Math.ceil(x.rows / block)
      fits(tape, "column_sum", [
        ["x", x.x, x.rows * x.cols],
        ["out", x.out, x.cols]
      ])
      if (x.scratch === undefined || blocks === 1) {
        return tape.dispatch(
          "column_sum_forward",
          { x: x.x, out: x.out },
          { rows: x.rows, cols: x.cols, block: x.rows, scale, accumulate },
          grid(x.cols),
          { WG }
        )
      }
      fits(tape, "column_sum", [["scratch", x.scratch, blocks * x.cols]])
      tape.dispatch(
        "column_sum_forward",
        { x: x.x, out: x.scratch },
        { rows: x.rows, cols: x.cols, block, scale: 1, accumulate: 0 },
        grid(blocks * x.cols),
        { WG }
      )
      tape.dispatch(
        "column_sum_forward",
        { x: x.scratch, out: x.out },
        { rows: blocks, cols: x.cols, block: blocks, scale, accumulate },
        grid(x.cols),
        { WG }
      )
    },
    /**
     * Splits qkv, rotates q and k, and stores k and v at `kvRow`. `table` [positions, headDim / 2, 2] holds cosine and sine. With
     * `norm`, every head of q and k passes an RMS norm first; its `weight` [2, headDim] is that of q, then that of k.
     */
    rope(
      tape: Tape,
      x: HeadShape & { qkv: F; position: U; kvRow: U; table: F; q: F; k: F; v: F; norm?: HeadNorm | undefined }
    ): void {
      tape.require(x.headDim % 2 === 0, "rope", `head_dim ${x.headDim} must be even`)
      // How long k and v must be depends on kvRow, which only the device knows.
      fits(tape, "rope", [
        ["qkv", x.qkv, x.rows * (x.heads + 2 * x.kvHeads) * x.headDim],
        ["position", x.position, x.rows],
        ["kvRow", x.kvRow, x.rows],
        ["q", x.q, x.rows * x.heads * x.headDim],
        ["norm", x.norm?.weight, 2 * x.headDim]
      ])
      const bindings = { qkv: x.qkv, position: x.position, kv_row: x.kvRow, table: x.table, q: x.q, k: x.k, v: x.v }
      const params = { rows: x.rows, heads: x.heads, kv_heads: x.kvHeads, head_dim: x.headDim }
      if (x.norm === undefined) {
        return tape.dispatch("rope_forward", bindings, params, grid((x.rows * x.headDim) / 2), { WG })
      }
      const normed = { ...bindings, norm: x.norm.weight }
      const heads = x.rows * (x.heads + x.kvHeads)
      const all = { ...params, eps: x.norm.eps }
      if (info.software) tape.dispatch("rope_forward_qk_norm", normed, all, grid(heads), { WG })
      else tape.dispatch("rope_forward_qk_norm_workgroup", normed, all, grid1d(heads, 1))
    },
    /** The adjoint: dqkv from dq, dk, dv. With `norm` it needs the `qkv` that forward read; the norm's weight is frozen. */
    ropeBackward(
      tape: Tape,
      x: HeadShape & { dq: F; dk: F; dv: F; position: U; table: F; dqkv: F; norm?: (HeadNorm & { qkv: F }) | undefined }
    ): void {
      const width = x.rows * (x.heads + 2 * x.kvHeads) * x.headDim
      tape.require(x.headDim % 2 === 0, "rope_backward", `head_dim ${x.headDim} must be even`)
      fits(tape, "rope_backward", [
        ["dq", x.dq, x.rows * x.heads * x.headDim],
        ["dk", x.dk, x.rows * x.kvHeads * x.headDim],
        ["dv", x.dv, x.rows * x.kvHeads * x.headDim],
        ["position", x.position, x.rows],
        ["dqkv", x.dqkv, width],
        ["qkv", x.norm?.qkv, width],
        ["norm", x.norm?.weight, 2 * x.headDim]
      ])
      const bindings = { dq: x.dq, dk: x.dk, dv: x.dv, position: x.position, table: x.table, dqkv: x.dqkv }
      const params = { rows: x.rows, heads: x.heads, kv_heads: x.kvHeads, head_dim: x.headDim }
      if (x.norm === undefined) {
        return tape.dispatch("rope_backward", bindings, params, grid((x.rows * x.headDim) / 2), { WG })
      }
      const normed = { ...bindings, qkv: x.norm.qkv, norm: x.norm.weight }
      const heads = x.rows * (x.heads + x.kvHeads)
      const all = { ...params, eps: x.norm.eps }
      if (info.software) tape.dispatch("rope_backward_qk_norm", normed, all, grid(heads), { WG })
      else tape.dispatch("rope_backward_qk_norm_workgroup", normed, all, grid1d(heads, 1))
    },
    /** y [rows, dim] = silu(gate) * up of gu [rows, 2 dim]. */
    swiglu(tape: Tape, x: { gu: F; y: F; rows: number; dim: number }): void {
      const size = x.rows * x.dim
      fits(tape, "swiglu", [
        ["gu", x.gu, 2 * size],
        ["y", x.y, size]
      ])
      const { constants, grid, span } = byRows(info, x.rows, x.dim)
      tape.dispatch("swiglu_forward", { gu: x.gu, y: x.y }, { rows: x.rows, dim: x.dim, span }, grid, constants)
    },
    /** Writes the gradient of gate and up over them. */
    swigluBackward(tape: Tape, x: { gu: F; dy: F; rows: number; dim: number }): void {
      const size = x.rows * x.dim
      fits(tape, "swiglu_backward", [
        ["gu", x.gu, 2 * size],
        ["dy", x.dy, size]
      ])
      const { constants, grid, span } = byRows(info, x.rows, x.dim)
      tape.dispatch("swiglu_backward", { gu: x.gu, dy: x.dy }, { rows: x.rows, dim: x.dim, span }, grid, constants)
    },
    /** out[i,:] = table[id[i],:]; a matrix must be held in f32 or f16. */
    gatherRows(tape: Tape, x: { table: F | Matrix; id: U; out: F; rows: number; dim: number }): void {
      fits(tape, "embedding", [
        ["id", x.id, x.rows],
        ["out", x.out, x.rows * x.dim]
      ])
      const { constants, grid, span } = byRows(info, x.rows, x.dim)
      const table = "parts" in x.table ? x.table : denseMatrix(x.table, Math.floor(x.table.length / x.dim), x.dim)
      tape.require(
        table.cols === x.dim,
        "embedding",
        `the table (${table.label}) has ${table.cols} columns, not ${x.dim}`
      )
      for (const part of table.parts) {
        const bindings = { id: x.id, out: x.out }
        const params = { rows: x.rows, dim: x.dim, span, b_stride: table.stride, first: part.first, count: part.rows }
        if (part.storage === "f32")
          tape.dispatch("embedding_forward", { ...bindings, b: part.data }, params, grid, constants)
        else if (part.storage === "f16")
          tape.dispatch("embedding_forward_f16", { ...bindings, b: part.data }, params, grid, constants)
        else
          tape.require(
            false,
            "embedding",
            `the table (${table.label}) is held in ${part.storage}; only f32 and f16 are`
          )
      }
    },
    /** The adjoint: dtable[v,:] (+)= sum of dy rows listed in order[start[v]..start[v+1]). */
    scatterRows(
      tape: Tape,
      x: { dy: F; start: U; order: U; dtable: F; rows: number; dim: number; accumulate: boolean }
    ): void {
      fits(tape, "embedding_backward", [
        ["start", x.start, x.rows + 1],
        ["dtable", x.dtable, x.rows * x.dim]
      ])
      const { constants, grid, span } = byRows(info, x.rows, x.dim)
      const bindings = { dy: x.dy, start: x.start, order: x.order, dtable: x.dtable }
      const params = { rows: x.rows, dim: x.dim, span, accumulate: x.accumulate ? 1 : 0 }
      tape.dispatch("embedding_backward", bindings, params, grid, constants)
    }
  }
}
