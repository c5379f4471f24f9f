/**
 * Matrix products in the three layouts a linear layer needs (see kernels/matmul/README.md).
 *
 * The low-rank product of LoRA rides along as further K columns (`extra`), so base and adapter are one dispatch. The
 * variant follows from what the device reports: a barrier-free subgroup tile where a driver computes on the CPU,
 * shared-memory tiles elsewhere and for shapes the subgroup tile cannot take.
 */
import type { AdapterInfo } from "../Gpu.ts"
import type { Matrix, MatrixPart } from "../Matrix.ts"
import { denseMatrix } from "../Matrix.ts"
import type { Tape } from "../Tape.ts"
import type { Tensor } from "../Tensor.ts"

export interface MatmulArgs {
  readonly a: Tensor<"f32">
  /** A tensor as the layout says, or (NT, NN) a weight matrix [n, k] for NT, [k, n] for NN, in any storage. */
  readonly b: Tensor<"f32"> | Matrix
  readonly out: Tensor<"f32">
  readonly m: number
  readonly n: number
  readonly k: number
  /** Factor on the main product (not on `extra`); default 1. */
  readonly alpha?: number
  /** [n], added to every row. */
  readonly bias?: Tensor<"f32">
  /** [m, n], added. */
  readonly residual?: Tensor<"f32">
  /** Adds to what `out` holds. */
  readonly accumulate?: boolean
  /** A second product of the same layout with its own inner dimension, added unscaled. */
  readonly extra?: { readonly a: Tensor<"f32">; readonly b: Tensor<"f32">; readonly k: number }
}

export type Layout = "NT" | "NN" | "TN"

const isMatrix = (b: MatmulArgs["b"]): b is Matrix => "parts" in b

/** The second operand as a matrix: rows are output features for NT, the inner dimension for NN and TN. */
const matrixOf = (layout: Layout, x: MatmulArgs): Matrix => {
  if (isMatrix(x.b)) return x.b
  return layout === "NT" ? denseMatrix(x.b, x.n, x.k) : denseMatrix(x.b, x.k, x.n)
}

const check = (tape: Tape, layout: Layout, x: MatmulArgs): void => {
  const name = `matmul ${layout} [${x.m}, ${x.k}] x [${x.k}, ${x.n}]`
  const holds = (what: string, tensor: Tensor | undefined, elements: number): void => {
    if (tensor !== undefined && tensor.length < elements)
      tape.require(false, name, `${what} (${tensor.label}) holds ${tensor.length} elements`)
  }
  tape.require(x.m > 0 && x.n > 0 && x.k > 0, name, "every dimension must be positive")
  holds("a", x.a, x.m * x.k)
  holds("out", x.out, x.m * x.n)
  holds("bias", x.bias, x.n)
  holds("residual", x.residual, x.m * x.n)
  holds("extra.a", x.extra?.a, x.m * (x.extra?.k ?? 0))
  holds("extra.b", x.extra?.b, x.n * (x.extra?.k ?? 0))
  if (!isMatrix(x.b)) return holds("b", x.b, x.k * x.n)
  const [rows, cols] = layout === "NT" ? [x.n, x.k] : [x.k, x.n]
  const fits = x.b.rows === rows && x.b.cols === cols && layout !== "TN"
  if (!fits) tape.require(false, name, `b (${x.b.label}) is a weight matrix [${x.b.rows}, ${x.b.cols}]`)
}

/** The lane count of the subgroup tile, or 0 where the device does better with shared memory. */
export const subgroupTile = (info: AdapterInfo): number => {
  const [low, high] = info.subgroupSize
  return info.software && low === high && (low === 4 || low === 8) ? low : 0
}

export const makeMatmul = (info: AdapterInfo) => {
  const sg = subgroupTile(info)
  const flagsOf = (x: MatmulArgs): number => (x.bias ? 1 : 0) + (x.residual ? 2 : 0) + (x.accumulate ? 4 : 0)
  const operands = (x: MatmulArgs) => ({
    a: x.a,
    a2: x.extra?.a ?? x.a,
    b2: x.extra?.b ?? x.a,
    bias: x.bias ?? x.a,
    residual: x.residual ?? x.a,
    out: x.out
  })
  const scalars = (x: MatmulArgs) => ({
    m: x.m,
    n: x.n,
    k: x.k,
    k2: x.extra?.k ?? 0,
    alpha: x.alpha ?? 1,
    flags: flagsOf(x)
  })
  /** Where a part of b lies: in rows of out's columns (NT) or in rows of the inner dimension (NN). */
  const place = (x: MatmulArgs, b: Matrix, col0: number, a0: number) => ({
    b_stride: b.stride,
    col0,
    cols: x.n,
    a_stride: x.k,
    a0
  })

  const tiled = (
    tape: Tape,
    mode: 0 | 1 | 2,
    x: MatmulArgs,
    part: MatrixPart,
    params: ReturnType<typeof scalars> & ReturnType<typeof place>
  ): void => {
    const grid = [Math.ceil(params.n / 64), Math.ceil(x.m / 64)] as const
    const all = { ...params, mode }
    const bindings = operands(x)
    switch (part.storage) {
      case "f32":
        return tape.dispatch("matmul_tiled", { ...bindings, b: part.data }, all, grid)
      case "f16":
        return tape.dispatch("matmul_tiled_f16", { ...bindings, b: part.data }, all, grid)
      case "int8":
        return tape.dispatch("matmul_tiled_int8", { ...bindings, b: part.data, scales: part.scales }, all, grid)
      case "int4":
        return tape.dispatch("matmul_tiled_int4", { ...bindings, b: part.data, scales: part.scales }, all, grid)
    }
  }
  /** Whether the subgroup tiles can take an inner dimension of `k` (and the second product's): they load quads of it. */
  const innerFits = (x: MatmulArgs, k: number): boolean =>
    sg > 0 && k % 4 === 0 && (x.extra?.k ?? 0) % 4 === 0 && (!isMatrix(x.b) || x.b.stride % 4 === 0)
  /** Whether the tile for fewer rows than lanes is the better one, and can be used. */
  const few = (x: MatmulArgs): boolean => x.m <= 4 && x.k % sg === 0 && (x.extra?.k ?? 0) % sg === 0
  /** Groups of rows a tile takes. All sizes add in the same order, so bits do not depend on it. */
  const groups = (m: number): number => (m > sg ? 16 / sg : 1)

  const fewRows = (
    tape: Tape,
    bindings: ReturnType<typeof operands>,
    params: Omit<ReturnType<typeof scalars> & ReturnType<typeof place>, "a_stride" | "a0">,
    part: MatrixPart,
    COLS: number
  ): void => {
    const ROWS = params.m === 1 ? 1 : 4
    const grid = [Math.ceil(params.n / (sg * COLS)), Math.ceil(params.m / ROWS)] as const
    const constants = { SG: sg, QUADS: sg / 4, ROWS, COLS }
    switch (part.storage) {
      case "f32":
        return tape.dispatch("matmul_nt_subgroup_few", { ...bindings, b: part.data }, params, grid, constants)
      case "f16":
        return tape.dispatch("matmul_nt_subgroup_few_f16", { ...bindings, b: part.data }, params, grid, constants)
      case "int8": {
        const both = { ...bindings, b: part.data, scales: part.scales }
        return tape.dispatch("matmul_nt_subgroup_few_int8", both, params, grid, constants)
      }
      case "int4": {
        const both = { ...bindings, b: part.data, scales: part.scales }
        return tape.dispatch("matmul_nt_subgroup_few_int4", both, params, grid, constants)
      }
    }
  }

  return {
    /** out[m,n] = alpha a[m,k] b[n,k]ᵀ + …: a linear layer forward with weights as stored by Hugging Face. */
    matmulNT(tape: Tape, x: MatmulArgs): void {
      check(tape, "NT", x)
      const b = matrixOf("NT", x)
      for (const part of b.parts) {
        const n = part.rows
        const params = { ...scalars(x), n, ...place(x, b, part.first, 0) }
        if (!innerFits(x, x.k)) {
          tiled(tape, 0, x, part, params)
          continue
        }
        const { a_stride: _, a0: __, ...rest } = params
        const bindings = operands(x)
        const COLS = n > 2 * sg ? 4 : n > sg ? 2 : 1
        if (few(x)) {
          fewRows(tape, bindings, rest, part, COLS)
          continue
        }
        const GROUPS = groups(x.m)
        const grid = [Math.ceil(n / (sg * COLS)), Math.ceil(x.m / (sg * GROUPS))] as const
        const constants = { SG: sg, GROUPS, COLS }
        switch (part.storage) {
          case "f32":
            tape.dispatch("matmul_nt_subgroup", { ...bindings, b: part.data }, rest, grid, constants)
            break
          case "f16":
            tape.dispatch("matmul_nt_subgroup_f16", { ...bindings, b: part.data }, rest, grid, constants)
            break
          case "int8": {
            const both = { ...bindings, b: part.data, scales: part.scales }
            tape.dispatch("matmul_nt_subgroup_int8", both, rest, grid, constants)
            break
          }
          case "int4": {
            const both = { ...bindings, b: part.data, scales: part.scales }
            tape.dispatch("matmul_nt_subgroup_int4", both, rest, grid, constants)
            break
          }
        }
      }
    },
    /** out[m,n] = alpha a[m,k] b[k,n] + …: the input gradient of a linear layer. */
    matmulNN(tape: Tape, x: MatmulArgs): void {
      check(tape, "NN", x)
      const b = matrixOf("NN", x)
      for (const [i, part] of b.parts.entries()) {
        // The parts after the first add to it: everything that is added once went with the first.
        const own: MatmulArgs = i === 0 ? x : { a: x.a, b: x.b, out: x.out, m: x.m, n: x.n, k: x.k, accumulate: true }
        const alpha = x.alpha ?? 1
        const params = { ...scalars(own), alpha, k: part.rows, ...place(x, b, 0, part.first) }
        if (!innerFits(own, part.rows) || x.n % 4 !== 0 || x.k % 4 !== 0) {
          tiled(tape, 1, own, part, params)
          continue
        }
        const { col0: _, cols: __, ...rest } = params
        const GROUPS = groups(x.m)
        const grid = [Math.ceil(x.n / (sg * 4)), Math.ceil(x.m / (sg * GROUPS))] as const
        const constants = { SG: sg, GROUPS, COLS: 1 }
        const bindings = operands(own)
        switch (part.storage) {
          case "f32":
            tape.dispatch("matmul_nn_subgroup", { ...bindings, b: part.data }, rest, grid, constants)
            break
          case "f16":
            tape.dispatch("matmul_nn_subgroup_f16", { ...bindings, b: part.data }, rest, grid, constants)
            break
          case "int8": {
            const both = { ...bindings, b: part.data, scales: part.scales }
            tape.dispatch("matmul_nn_subgroup_int8", both, rest, grid, constants)
            break
          }
          case "int4": {
            const both = { ...bindings, b: part.data, scales: part.scales }
            tape.dispatch("matmul_nn_subgroup_int4", both, rest, grid, constants)
            break
          }
        }
      }
    },
    /** out[m,n] = alpha a[k,m]ᵀ b[k,n] (+ out): the weight gradient, contracting over `k` tokens. */
    matmulTN(tape: Tape, x: MatmulArgs): void {
      check(tape, "TN", x)
      tape.require(
        x.bias === undefined && x.residual === undefined && x.extra === undefined,
        "matmul TN",
        "bias, residual and extra are not supported"
      )
      if (isMatrix(x.b)) return
      if (sg === 0 || x.n % 4 !== 0) {
        const b = matrixOf("TN", x)
        return tiled(
          tape,
          2,
          x,
          { storage: "f32", first: 0, rows: x.k, data: x.b },
          { ...scalars(x), ...place(x, b, 0, 0) }
        )
      }
      const CHUNKS = 16 / sg
      tape.dispatch(
        "matmul_tn_subgroup",
        { a: x.a, b: x.b, out: x.out },
        { m: x.m, n: x.n, k: x.k, alpha: x.alpha ?? 1, flags: x.accumulate ? 4 : 0 },
        [Math.ceil(x.n / (sg * 4)), Math.ceil(x.m / (sg * CHUNKS))],
        { SG: sg, CHUNKS, COLS: 1 }
      )
    }
  }
}
