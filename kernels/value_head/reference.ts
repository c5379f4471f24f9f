/** The scalar head of the critic and of the reward model in double precision: value = h · w + b; w holds [dim] weights, then b. */
export const valueHead = (h: ArrayLike<number>, w: ArrayLike<number>, rows: number, dim: number): Float64Array =>
  Float64Array.from({ length: rows }, (_, r) => {
    let sum = w[dim]!
    for (let c = 0; c < dim; c++) sum += h[r * dim + c]! * w[c]!
    return sum
  })

/** dh [rows, dim] and dw [dim + 1] for the gradient dValue [rows]. */
export const valueHeadBackward = (
  h: ArrayLike<number>,
  w: ArrayLike<number>,
  dValue: ArrayLike<number>,
  rows: number,
  dim: number
): { readonly dh: Float64Array; readonly dw: Float64Array } => {
  const dh = new Float64Array(rows * dim)
  const dw = new Float64Array(dim + 1)
  for (let r = 0; r < rows; r++) {
    for (let c = 0; c < dim; c++) {
      dh[r * dim + c] = dValue[r]! * w[c]!
      dw[c] = dw[c]! + dValue[r]! * h[r * dim + c]!
    }
    dw[dim] = dw[dim]! + dValue[r]!
  }
  return { dh, dw }
}
