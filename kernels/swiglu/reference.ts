/** SwiGLU (Shazeer 2020) in double precision: gu [rows, 2 dim] holds gate then up, y [rows, dim] = silu(gate) · up. */
const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x))

export const swiglu = (gu: ArrayLike<number>, rows: number, dim: number): Float64Array =>
  Float64Array.from({ length: rows * dim }, (_, i) => {
    const at = Math.floor(i / dim) * 2 * dim + (i % dim)
    return gu[at]! * sigmoid(gu[at]!) * gu[at + dim]!
  })

/** dgu [rows, 2 dim] for the gradient dy [rows, dim]. */
export const swigluBackward = (
  gu: ArrayLike<number>,
  dy: ArrayLike<number>,
  rows: number,
  dim: number
): Float64Array => {
  const dgu = new Float64Array(rows * 2 * dim)
  for (let i = 0; i < rows * dim; i++) {
    const at = Math.floor(i / dim) * 2 * dim + (i % dim)
    const [g, u] = [gu[at]!, gu[at + dim]!]
    const s = sigmoid(g)
    dgu[at] = dy[i]! * u * s * (1 + g * (1 - s))
    dgu[at + dim] = dy[i]! * g * s
  }
  return dgu
}
