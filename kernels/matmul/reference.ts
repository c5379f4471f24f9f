/**
 * Matrix products in double precision: the oracle of every matmul variant.
 *
 * All matrices are row-major and flat. `NT` a[M,K] b[N,K], `NN` a[M,K] b[K,N], `TN` a[K,M] b[K,N]; a second product of
 * the same layout with inner dimension `extra.k` is added unscaled, as the kernels do for LoRA.
 */
export type Layout = "NT" | "NN" | "TN"

export interface MatmulInput {
  readonly a: ArrayLike<number>
  readonly b: ArrayLike<number>
  readonly m: number
  readonly n: number
  readonly k: number
  /** Factor on a·b only; default 1. */
  readonly alpha?: number | undefined
  /** [n], added to every row. */
  readonly bias?: ArrayLike<number> | undefined
  /** [m, n], added. */
  readonly residual?: ArrayLike<number> | undefined
  /** What `out` held before, for accumulation; [m, n]. */
  readonly previous?: ArrayLike<number> | undefined
  readonly extra?: { readonly a: ArrayLike<number>; readonly b: ArrayLike<number>; readonly k: number } | undefined
}

const product = (
  layout: Layout,
  a: ArrayLike<number>,
  b: ArrayLike<number>,
  m: number,
  n: number,
  k: number
): Float64Array => {
  const out = new Float64Array(m * n)
  for (let i = 0; i < m; i++) {
    for (let j = 0; j < n; j++) {
      let sum = 0
      for (let l = 0; l < k; l++) {
        sum += a[layout === "TN" ? l * m + i : i * k + l]! * b[layout === "NT" ? j * k + l : l * n + j]!
      }
      out[i * n + j] = sum
    }
  }
  return out
}

/** out[m, n] = alpha·A·B + A₂·B₂ + bias + residual + previous. */
export const matmul = (layout: Layout, x: MatmulInput): Float64Array => {
  const out = product(layout, x.a, x.b, x.m, x.n, x.k)
  const second = x.extra ? product(layout, x.extra.a, x.extra.b, x.m, x.n, x.extra.k) : undefined
  const alpha = x.alpha ?? 1
  for (let i = 0; i < out.length; i++) {
    out[i] =
      alpha * out[i]! + (second?.[i] ?? 0) + (x.bias?.[i % x.n] ?? 0) + (x.residual?.[i] ?? 0) + (x.previous?.[i] ?? 0)
  }
  return out
}

/** A linear layer with a low-rank adapter: y[m, out] = x Wᵀ + scale (x Aᵀ) Bᵀ, W [out, in], A [rank, in], B [out, rank]. */
export const loraLinear = (
  x: ArrayLike<number>,
  w: ArrayLike<number>,
  a: ArrayLike<number>,
  b: ArrayLike<number>,
  shape: { readonly rows: number; readonly input: number; readonly output: number; readonly rank: number },
  scale: number
): Float64Array => {
  const low = product("NT", x, a, shape.rows, shape.rank, shape.input)
  for (let i = 0; i < low.length; i++) low[i] = low[i]! * scale
  return matmul("NT", {
    a: x,
    b: w,
    m: shape.rows,
    n: shape.output,
    k: shape.input,
    extra: { a: low, b, k: shape.rank }
  })
}
