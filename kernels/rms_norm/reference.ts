/** RMSNorm (Zhang & Sennrich 2019) in double precision, forward and backward. x, y, dy, dx are [rows, dim]; w is [dim]. */
export interface RmsNormForward {
  readonly y: Float64Array
  readonly rstd: Float64Array
}

/** y = x · rstd · w with rstd[r] = 1 / √(mean(x[r,:]²) + eps). */
export const rmsNorm = (
  x: ArrayLike<number>,
  w: ArrayLike<number>,
  rows: number,
  dim: number,
  eps: number
): RmsNormForward => {
  const y = new Float64Array(rows * dim)
  const rstd = new Float64Array(rows)
  for (let r = 0; r < rows; r++) {
    let sum = 0
    for (let c = 0; c < dim; c++) sum += x[r * dim + c]! ** 2
    const scale = 1 / Math.sqrt(sum / dim + eps)
    rstd[r] = scale
    for (let c = 0; c < dim; c++) y[r * dim + c] = x[r * dim + c]! * scale * w[c]!
  }
  return { y, rstd }
}

/** dx = rstd (w dy − x̂ mean(w dy x̂)), dw[c] = Σ_r dy x̂, x̂ = x rstd. */
export const rmsNormBackward = (
  x: ArrayLike<number>,
  w: ArrayLike<number>,
  rstd: ArrayLike<number>,
  dy: ArrayLike<number>,
  rows: number,
  dim: number
): { readonly dx: Float64Array; readonly dw: Float64Array } => {
  const dx = new Float64Array(rows * dim)
  const dw = new Float64Array(dim)
  for (let r = 0; r < rows; r++) {
    let dot = 0
    for (let c = 0; c < dim; c++) {
      const at = r * dim + c
      const hat = x[at]! * rstd[r]!
      dot += w[c]! * dy[at]! * hat
      dw[c] = dw[c]! + dy[at]! * hat
    }
    for (let c = 0; c < dim; c++) {
      const at = r * dim + c
      dx[at] = rstd[r]! * (w[c]! * dy[at]! - (x[at]! * rstd[r]! * dot) / dim)
    }
  }
  return { dx, dw }
}
