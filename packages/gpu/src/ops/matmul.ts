/**
 * Matrix products in the three layouts a linear layer needs (see kernels/matmul/README.md).
 *
 * The low-rank product of LoRA rides along as further K columns (`extra`), so base and adapter are one dispatch. The
 * variant follows from what the device reports: a barrier-free subgroup tile where a driver computes on the CPU,
 * shared-memory tiles elsewhere and for shapes the subgroup tile cannot take.
 */
import type { AdapterInfo } from "../Gpu.ts"
import type { Tape } from "../Tape.ts"
import type { Tensor } from "../Tensor.ts"

export interface MatmulArgs {
  readonly a: Tensor<"f32">
  readonly b: Tensor<"f32">
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

const check = (tape: Tape, layout: Layout, x: MatmulArgs): void => {
  const name = `matmul ${layout} [${x.m}, ${x.k}] x [${x.k}, ${x.n}]`
  tape.require(x.m > 0 && x.n > 0 && x.k > 0, name, "every dimension must be positive")
  tape.require(x.a.length >= x.m * x.k, name, `a (${x.a.label}) holds ${x.a.length} elements`)
  tape.require(x.b.length >= x.k * x.n, name, `b (${x.b.label}) holds ${x.b.length} elements`)
  tape.require(x.out.length >= x.m * x.n, name, `out (${x.out.label}) holds ${x.out.length} elements`)
  if (x.bias) tape.require(x.bias.length >= x.n, name, `bias (${x.bias.label}) holds ${x.bias.length} elements`)
  if (x.residual)
    tape.require(
      x.residual.length >= x.m * x.n,
      name,
      `residual (${x.residual.label}) holds ${x.residual.length} elements`
    )
  if (x.extra) {
    tape.require(
      x.extra.a.length >= x.m * x.extra.k,
      name,
      `extra.a (${x.extra.a.label}) holds ${x.extra.a.length} elements`
    )
    tape.require(
      x.extra.b.length >= x.n * x.extra.k,
      name,
      `extra.b (${x.extra.b.label}) holds ${x.extra.b.length} elements`
    )
  }
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
    b: x.b,
    a2: x.extra?.a ?? x.a,
    b2: x.extra?.b ?? x.b,
    bias: x.bias ?? x.b,
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
  const tiled = (tape: Tape, mode: 0 | 1 | 2, x: MatmulArgs): void =>
    tape.dispatch("matmul_tiled", operands(x), { ...scalars(x), mode }, [Math.ceil(x.n / 64), Math.ceil(x.m / 64)])
  const innerFits = (x: MatmulArgs): boolean => sg > 0 && x.k % sg === 0 && (x.extra?.k ?? 0) % sg === 0
  const rows = (m: number): number => (m >= 256 ? 16 : 8)

  return {
    /** out[m,n] = alpha a[m,k] b[n,k]ᵀ + …: a linear layer forward with weights as stored by Hugging Face. */
    matmulNT(tape: Tape, x: MatmulArgs): void {
      check(tape, "NT", x)
      if (!innerFits(x)) return tiled(tape, 0, x)
      const COLS = x.n > 2 * sg ? 4 : x.n > sg ? 2 : 1
      const ROWS = COLS === 4 ? 8 : rows(x.m)
      tape.dispatch(
        "matmul_nt_subgroup",
        operands(x),
        scalars(x),
        [Math.ceil(x.n / (sg * COLS)), Math.ceil(x.m / ROWS)],
        {
          SG: sg,
          QUADS: sg / 4,
          ROWS,
          COLS
        }
      )
    },
    /** out[m,n] = alpha a[m,k] b[k,n] + …: the input gradient of a linear layer. */
    matmulNN(tape: Tape, x: MatmulArgs): void {
      check(tape, "NN", x)
      if (!innerFits(x) || x.n % 4 !== 0) return tiled(tape, 1, x)
      const ROWS = rows(x.m)
      tape.dispatch("matmul_nn_subgroup", operands(x), scalars(x), [Math.ceil(x.n / (sg * 4)), Math.ceil(x.m / ROWS)], {
        SG: sg,
        ROWS,
        COLS: 1
      })
    },
    /** out[m,n] = alpha a[k,m]ᵀ b[k,n] (+ out): the weight gradient, contracting over `k` tokens. */
    matmulTN(tape: Tape, x: MatmulArgs): void {
      check(tape, "TN", x)
      tape.require(
        x.bias === undefined && x.residual === undefined && x.extra === undefined,
        "matmul TN",
        "bias, residual and extra are not supported"
      )
      if (sg === 0 || x.n % 4 !== 0) return tiled(tape, 2, x)
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
