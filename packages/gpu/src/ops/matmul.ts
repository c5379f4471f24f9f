/**
 * Matrix products in the three layouts a linear layer needs (see kernels/matmul/README.md).
 *
 * The low-rank product of LoRA rides along as further K columns (`extra`), so base and adapter are one dispatch. The rung of the ladder
 * follows from what the device reports and a calibration found (MatmulVariant.ts), and never from how many rows there are: a row's bits
 * are its own. Callers that know a bound on the rows say so (`capacity`) and get what is good for few of them.
 */
import type { AdapterInfo } from "../Gpu.ts"
import { launch, type MatmulJob } from "../internal/matmul-launch.ts"
import { fusesNorm, type Layout, type MatmulChoice, type MatmulShape, pickVariant } from "../MatmulVariant.ts"
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
  /**
   * NT, NN: the most rows this call will ever have, fixed for the life of an engine or trainer. Rows computed under one capacity have the
   * same bits whatever `m` is; under different capacities they may not.
   */
  readonly capacity?: number
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
  /** NT: the product is that of the rows' RMS norm, a / rms(a) · weight [k]. Only where `fused` says so; `residual` is then refused. */
  readonly norm?: { readonly weight: Tensor<"f32">; readonly eps: number }
  /**
   * Only where `fused` says so, beside `norm`: b's rows are those of a gate and then as many of what it gates; out [m, n / 2] is
   * silu(gate) · up. `bias`, `residual` and `accumulate` are refused.
   */
  readonly gated?: boolean
}

/** What a product can take along. */
export interface Fused {
  readonly norm: boolean
  readonly gated: boolean
}

const isMatrix = (b: MatmulArgs["b"]): b is Matrix => "parts" in b

/** What tells which rung takes a product. */
export type FusedArgs = Pick<MatmulArgs, "b" | "n" | "k" | "capacity"> & {
  readonly extra?: { readonly k: number } | undefined
}

/** The second operand as a matrix: rows are output features for NT, the inner dimension for NN and TN. */
const matrixOf = (layout: Layout, x: Pick<MatmulArgs, "b" | "n" | "k">): Matrix => {
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
  tape.require(x.m <= (x.capacity ?? x.m), name, `the capacity was declared as ${x.capacity} rows`)
  holds("a", x.a, x.m * x.k)
  holds("out", x.out, (x.m * x.n) / (x.gated ? 2 : 1))
  holds("bias", x.bias, x.n)
  holds("residual", x.residual, x.m * x.n)
  holds("norm", x.norm?.weight, x.k)
  holds("extra.a", x.extra?.a, x.m * (x.extra?.k ?? 0))
  holds("extra.b", x.extra?.b, x.n * (x.extra?.k ?? 0))
  if (!isMatrix(x.b)) return holds("b", x.b, x.k * x.n)
  const [rows, cols] = layout === "NT" ? [x.n, x.k] : [x.k, x.n]
  const fits = x.b.rows === rows && x.b.cols === cols && layout !== "TN"
  if (!fits) tape.require(false, name, `b (${x.b.label}) is a weight matrix [${x.b.rows}, ${x.b.cols}]`)
}

const shapeOf = (layout: Layout, x: FusedArgs, b: Matrix, part: MatrixPart): MatmulShape => ({
  layout,
  storage: part.storage,
  n: layout === "NT" ? part.rows : x.n,
  k: x.k,
  k2: x.extra?.k ?? 0,
  stride: b.stride,
  capacity: x.capacity
})

/** The product with one part of b: its rows are columns of out for NT, inner dimension for NN and TN. */
const jobOf = (layout: Layout, x: MatmulArgs, b: Matrix, part: MatrixPart): MatmulJob => {
  const forward = layout === "NT"
  const n = forward ? part.rows : x.n
  const k2 = x.extra?.k ?? 0
  return {
    shape: shapeOf(layout, layout === "TN" ? { ...x, capacity: x.m } : x, b, part),
    part,
    a: x.a,
    a2: x.extra?.a,
    b2: x.extra?.b,
    bias: x.bias,
    residual: x.residual,
    norm: x.norm,
    gated: x.gated ?? false,
    out: x.out,
    m: x.m,
    n,
    k: forward ? x.k : part.rows,
    k2,
    alpha: x.alpha ?? 1,
    accumulate: x.accumulate ?? false,
    bStride: b.stride,
    col0: forward ? part.first : 0,
    cols: x.gated ? x.n / 2 : x.n,
    aStride: x.k,
    a0: forward ? 0 : part.first
  }
}

export const makeMatmul = (info: AdapterInfo, choice: MatmulChoice | undefined) => {
  const run = (tape: Tape, job: MatmulJob): void => launch(tape, info, pickVariant(info, choice, job.shape), job)
  const fused = (x: FusedArgs): Fused => {
    const b = matrixOf("NT", x)
    const norm = b.parts.every((part) => fusesNorm(info, choice, shapeOf("NT", x, b, part)))
    return { norm, gated: norm && b.parts.length === 1 && x.n % 2 === 0 }
  }
  const checkFused = (tape: Tape, layout: Layout, x: MatmulArgs): void => {
    if (x.norm === undefined && x.gated !== true) return
    const can = layout === "NT" ? fused(x) : { norm: false, gated: false }
    const epilogue = x.residual !== undefined || (x.gated === true && (x.bias !== undefined || x.accumulate === true))
    const holds = x.norm !== undefined && can.norm && (can.gated || x.gated !== true) && !epilogue
    tape.require(
      holds,
      `matmul ${layout} [${x.m}, ${x.k}] x [${x.k}, ${x.n}]`,
      "norm or gate cannot be taken along; ask fused first"
    )
  }
  return {
    /** What `matmulNT` can take along. Depends on the declared capacity, never on the rows at hand. */
    fused,
    /** out[m,n] = alpha a[m,k] b[n,k]ᵀ + …: a linear layer forward with weights as stored by Hugging Face. */
    matmulNT(tape: Tape, x: MatmulArgs): void {
      check(tape, "NT", x)
      checkFused(tape, "NT", x)
      const b = matrixOf("NT", x)
      for (const part of b.parts) run(tape, jobOf("NT", x, b, part))
    },
    /** out[m,n] = alpha a[m,k] b[k,n] + …: the input gradient of a linear layer. */
    matmulNN(tape: Tape, x: MatmulArgs): void {
      check(tape, "NN", x)
      checkFused(tape, "NN", x)
      const b = matrixOf("NN", x)
      for (const [i, part] of b.parts.entries()) {
        const job = jobOf("NN", x, b, part)
        // The parts after the first add to it: everything that is added once went with the first.
        const bare = { a2: undefined, b2: undefined, k2: 0, bias: undefined, residual: undefined, accumulate: true }
        run(tape, i === 0 ? job : { ...job, ...bare, shape: { ...job.shape, k2: 0 } })
      }
    },
    /** out[m,n] = alpha a[k,m]ᵀ b[k,n] (+ out): the weight gradient, contracting over `k` tokens. */
    matmulTN(tape: Tape, x: MatmulArgs): void {
      check(tape, "TN", x)
      checkFused(tape, "TN", x)
      tape.require(
        x.bias === undefined && x.residual === undefined && x.extra === undefined,
        "matmul TN",
        "bias, residual and extra are not supported"
      )
      if (isMatrix(x.b)) return
      const b = matrixOf("TN", x)
      for (const part of b.parts) run(tape, jobOf("TN", x, b, part))
    }
  }
}
