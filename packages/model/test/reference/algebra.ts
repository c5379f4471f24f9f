/**
 * The parts of the reference decoder in double precision: products, RMS norm with its gradient, scaled rotary positions.
 * Matrices are row-major; weights [out, in], activations [rows, width].
 */

/** y [m, n] += factor · x [m, k] wᵀ, w [n, k]. */
export const addNT = (
  y: Float64Array,
  x: Float64Array,
  w: Float64Array,
  m: number,
  n: number,
  k: number,
  factor = 1
): void => {
  for (let i = 0; i < m; i++) {
    for (let j = 0; j < n; j++) {
      let sum = 0
      for (let c = 0; c < k; c++) sum += x[i * k + c]! * w[j * k + c]!
      y[i * n + j]! += factor * sum
    }
  }
}

/** dx [m, k] += factor · dy [m, n] w, w [n, k]. */
export const addNN = (
  dx: Float64Array,
  dy: Float64Array,
  w: Float64Array,
  m: number,
  n: number,
  k: number,
  factor = 1
): void => {
  for (let i = 0; i < m; i++) {
    for (let j = 0; j < n; j++) {
      const d = factor * dy[i * n + j]!
      for (let c = 0; c < k; c++) dx[i * k + c]! += d * w[j * k + c]!
    }
  }
}

/** dw [n, k] += factor · dyᵀ x, dy [m, n], x [m, k]. */
export const addTN = (
  dw: Float64Array,
  dy: Float64Array,
  x: Float64Array,
  m: number,
  n: number,
  k: number,
  factor = 1
): void => {
  for (let i = 0; i < m; i++) {
    for (let j = 0; j < n; j++) {
      const d = factor * dy[i * n + j]!
      for (let c = 0; c < k; c++) dw[j * k + c]! += d * x[i * k + c]!
    }
  }
}

export interface Normed {
  readonly x: Float64Array
  readonly y: Float64Array
  readonly inverse: Float64Array
}

export const norm = (x: Float64Array, w: Float64Array, rows: number, eps: number): Normed => {
  const dim = w.length
  const y = new Float64Array(x.length)
  const inverse = new Float64Array(rows)
  for (let t = 0; t < rows; t++) {
    let square = 0
    for (let c = 0; c < dim; c++) square += x[t * dim + c]! ** 2
    inverse[t] = 1 / Math.sqrt(square / dim + eps)
    for (let c = 0; c < dim; c++) y[t * dim + c] = x[t * dim + c]! * inverse[t]! * w[c]!
  }
  return { x, y, inverse }
}

export const normBackward = (
  dx: Float64Array,
  dw: Float64Array,
  dy: Float64Array,
  kept: Normed,
  w: Float64Array,
  rows: number
): void => {
  const dim = w.length
  for (let t = 0; t < rows; t++) {
    const r = kept.inverse[t]!
    let dot = 0
    for (let c = 0; c < dim; c++) {
      const at = t * dim + c
      dot += dy[at]! * w[c]! * kept.x[at]!
      dw[c]! += dy[at]! * kept.x[at]! * r
    }
    for (let c = 0; c < dim; c++) {
      const at = t * dim + c
      dx[at]! += r * dy[at]! * w[c]! - (r ** 3 * dot * kept.x[at]!) / dim
    }
  }
}

/** The RMS norm of every head of x [rows, heads · D]: one norm over D elements, its weight shared by the heads. */
export const headNorm = (x: Float64Array, w: Float64Array, eps: number): Normed => norm(x, w, x.length / w.length, eps)

/** Position scaling in the words of `config.json`. */
export type Scaling =
  | null
  | { readonly type: "linear"; readonly factor: number }
  | {
      readonly type: "llama3"
      readonly factor: number
      readonly low_freq_factor: number
      readonly high_freq_factor: number
      readonly original_max_position_embeddings: number
    }

/** Angle of pair d at position t: linear scaling shrinks the position, Llama 3's looks at the pair's wavelength. */
export const angle = (t: number, d: number, D: number, theta: number, scaling: Scaling): number => {
  const frequency = theta ** ((-2 * d) / D)
  if (scaling === null) return t * frequency
  if (scaling.type === "linear") return (t / scaling.factor) * frequency
  const { factor, low_freq_factor: low, high_freq_factor: high, original_max_position_embeddings: old } = scaling
  const wavelength = (2 * Math.PI) / frequency
  if (wavelength < old / high) return t * frequency
  if (wavelength > old / low) return t * (frequency / factor)
  const smooth = (old / wavelength - low) / (high - low)
  return t * (((1 - smooth) * frequency) / factor + smooth * frequency)
}

/** Rotates pairs (d, d + D/2) of every head by ± the angle of the row's position, in place. */
export const rotate = (
  x: Float64Array,
  rows: number,
  heads: number,
  D: number,
  theta: number,
  scaling: Scaling,
  sign: 1 | -1
): void => {
  for (let t = 0; t < rows; t++) {
    for (let d = 0; d < D / 2; d++) {
      const turn = sign * angle(t, d, D, theta, scaling)
      const [c, s] = [Math.cos(turn), Math.sin(turn)]
      for (let h = 0; h < heads; h++) {
        const at = (t * heads + h) * D + d
        const [u, v] = [x[at]!, x[at + D / 2]!]
        x[at] = u * c - v * s
        x[at + D / 2] = v * c + u * s
      }
    }
  }
}
