/**
 * Grouped-query attention over a key range per row, in double precision, forward and backward.
 * q, o [rows, H, D]; k, v [*, G, D]; row r sees the keys [kvStart[r], kvEnd[r]); group of head h is ⌊h G / H⌋.
 */
export interface HeadShape {
  readonly rows: number
  readonly heads: number
  readonly kvHeads: number
  readonly headDim: number
}

export interface AttentionInput {
  readonly q: ArrayLike<number>
  readonly k: ArrayLike<number>
  readonly v: ArrayLike<number>
  readonly kvStart: ArrayLike<number>
  readonly kvEnd: ArrayLike<number>
}

const scores = (s: HeadShape, x: AttentionInput, row: number, head: number): Float64Array => {
  const group = Math.floor(head / (s.heads / s.kvHeads))
  const first = x.kvStart[row]!
  const out = new Float64Array(Math.max(0, x.kvEnd[row]! - first))
  for (let j = 0; j < out.length; j++) {
    let dot = 0
    for (let d = 0; d < s.headDim; d++) {
      dot += x.q[(row * s.heads + head) * s.headDim + d]! * x.k[((first + j) * s.kvHeads + group) * s.headDim + d]!
    }
    out[j] = dot / Math.sqrt(s.headDim)
  }
  return out
}

const logSumExp = (x: Float64Array): number => {
  const top = x.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY)
  return top + Math.log(x.reduce((sum, v) => sum + Math.exp(v - top), 0))
}

/** o and the log-sum-exp of the scaled scores [rows, heads]; a row without keys gives o = 0 and −∞. */
export const attention = (
  s: HeadShape,
  x: AttentionInput
): { readonly o: Float64Array; readonly lse: Float64Array } => {
  const o = new Float64Array(s.rows * s.heads * s.headDim)
  const lse = new Float64Array(s.rows * s.heads)
  for (let r = 0; r < s.rows; r++) {
    for (let h = 0; h < s.heads; h++) {
      const group = Math.floor(h / (s.heads / s.kvHeads))
      const z = scores(s, x, r, h)
      const total = logSumExp(z)
      lse[r * s.heads + h] = total
      for (let j = 0; j < z.length; j++) {
        const p = Math.exp(z[j]! - total)
        for (let d = 0; d < s.headDim; d++) {
          const at = (r * s.heads + h) * s.headDim + d
          o[at] = o[at]! + p * x.v[((x.kvStart[r]! + j) * s.kvHeads + group) * s.headDim + d]!
        }
      }
    }
  }
  return { o, lse }
}

/** dq, dk, dv for the gradient `dO` of o: dS = P ∘ (dO Vᵀ − rowsum(dO ∘ O)). */
export const attentionBackward = (
  s: HeadShape,
  x: AttentionInput,
  dO: ArrayLike<number>
): { readonly dq: Float64Array; readonly dk: Float64Array; readonly dv: Float64Array } => {
  const dq = new Float64Array(s.rows * s.heads * s.headDim)
  const dk = new Float64Array(x.k.length)
  const dv = new Float64Array(x.v.length)
  const { o } = attention(s, x)
  for (let r = 0; r < s.rows; r++) {
    for (let h = 0; h < s.heads; h++) {
      const group = Math.floor(h / (s.heads / s.kvHeads))
      const z = scores(s, x, r, h)
      const total = logSumExp(z)
      const at = (r * s.heads + h) * s.headDim
      let delta = 0
      for (let d = 0; d < s.headDim; d++) delta += dO[at + d]! * o[at + d]!
      for (let j = 0; j < z.length; j++) {
        const kj = ((x.kvStart[r]! + j) * s.kvHeads + group) * s.headDim
        const p = Math.exp(z[j]! - total)
        let dp = 0
        for (let d = 0; d < s.headDim; d++) dp += dO[at + d]! * x.v[kj + d]!
        const ds = (p * (dp - delta)) / Math.sqrt(s.headDim)
        for (let d = 0; d < s.headDim; d++) {
          dq[at + d] = dq[at + d]! + ds * x.k[kj + d]!
          dk[kj + d] = dk[kj + d]! + ds * x.q[at + d]!
          dv[kj + d] = dv[kj + d]! + p * dO[at + d]!
        }
      }
    }
  }
  return { dq, dk, dv }
}
