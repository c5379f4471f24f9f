/**
 * Rotary position embedding (Su et al. 2021) in double precision, half-split pairs (i, i + D/2) as in Llama and Qwen2.
 * One row of `qkv` holds H query heads, G key heads and G value heads of `headDim` each; values are not rotated.
 */
import { rmsNorm, rmsNormBackward } from "../rms_norm/reference.ts"

export interface HeadShape {
  readonly rows: number
  readonly heads: number
  readonly kvHeads: number
  readonly headDim: number
}

/** cos and sin of position · theta^(−2i/D), interleaved: [positions, headDim / 2, 2]. */
export const ropeTable = (positions: number, headDim: number, theta: number): Float64Array => {
  const half = headDim / 2
  const table = new Float64Array(2 * positions * half)
  for (let p = 0; p < positions; p++) {
    for (let i = 0; i < half; i++) {
      const angle = p * theta ** ((-2 * i) / headDim)
      table[2 * (p * half + i)] = Math.cos(angle)
      table[2 * (p * half + i) + 1] = Math.sin(angle)
    }
  }
  return table
}

/** q [rows, H D] and the key and value stores [kvRows, G D], where row r of k and v stands at kvRow[r]. */
export const rope = (
  s: HeadShape,
  x: {
    readonly qkv: ArrayLike<number>
    readonly position: ArrayLike<number>
    readonly kvRow: ArrayLike<number>
    readonly table: ArrayLike<number>
    readonly kvRows: number
  }
): { readonly q: Float64Array; readonly k: Float64Array; readonly v: Float64Array } => {
  const half = s.headDim / 2
  const all = s.heads + 2 * s.kvHeads
  const q = new Float64Array(s.rows * s.heads * s.headDim)
  const k = new Float64Array(x.kvRows * s.kvHeads * s.headDim)
  const v = new Float64Array(x.kvRows * s.kvHeads * s.headDim)
  for (let r = 0; r < s.rows; r++) {
    for (let h = 0; h < all; h++) {
      for (let i = 0; i < half; i++) {
        const src = (r * all + h) * s.headDim + i
        const [x0, x1] = [x.qkv[src]!, x.qkv[src + half]!]
        const t = 2 * (x.position[r]! * half + i)
        const [c, n] = [x.table[t]!, x.table[t + 1]!]
        const rotated = h < s.heads + s.kvHeads
        const [y0, y1] = rotated ? [x0 * c - x1 * n, x1 * c + x0 * n] : [x0, x1]
        const out = h < s.heads ? q : rotated ? k : v
        const to =
          h < s.heads
            ? (r * s.heads + h) * s.headDim + i
            : (x.kvRow[r]! * s.kvHeads + ((h - s.heads) % s.kvHeads)) * s.headDim + i
        out[to] = y0
        out[to + half] = y1
      }
    }
  }
  return { q, k, v }
}

/** The adjoint: dqkv from dq, dk, dv, all at the token's own row (rotation by the negative angle). */
export const ropeBackward = (
  s: HeadShape,
  x: {
    readonly dq: ArrayLike<number>
    readonly dk: ArrayLike<number>
    readonly dv: ArrayLike<number>
    readonly position: ArrayLike<number>
    readonly table: ArrayLike<number>
  }
): Float64Array => {
  const half = s.headDim / 2
  const all = s.heads + 2 * s.kvHeads
  const out = new Float64Array(s.rows * all * s.headDim)
  for (let r = 0; r < s.rows; r++) {
    for (let h = 0; h < all; h++) {
      const [source, width, head] =
        h < s.heads
          ? [x.dq, s.heads, h]
          : h < s.heads + s.kvHeads
            ? [x.dk, s.kvHeads, h - s.heads]
            : [x.dv, s.kvHeads, h - s.heads - s.kvHeads]
      for (let i = 0; i < half; i++) {
        const src = (r * width + head) * s.headDim + i
        const to = (r * all + h) * s.headDim + i
        const t = 2 * (x.position[r]! * half + i)
        const [c, n] = h < s.heads + s.kvHeads ? [x.table[t]!, x.table[t + 1]!] : [1, 0]
        out[to] = source[src]! * c + source[src + half]! * n
        out[to + half] = source[src + half]! * c - source[src]! * n
      }
    }
  }
  return out
}

/** Runs `visit` on each query (weight 0) and key (weight 1) head of `qkv`, which starts at that element. */
const eachTurnedHead = (s: HeadShape, visit: (at: number, which: 0 | 1) => void): void => {
  const all = s.heads + 2 * s.kvHeads
  for (let r = 0; r < s.rows; r++) {
    for (let h = 0; h < s.heads + s.kvHeads; h++) visit((r * all + h) * s.headDim, h < s.heads ? 0 : 1)
  }
}

/** qkv with an RMS norm over every query and key head; weight [2, headDim]: that of q, then that of k. Values stay. */
export const headNorm = (
  s: HeadShape,
  qkv: ArrayLike<number>,
  weight: ArrayLike<number>,
  eps: number
): Float64Array => {
  const x = Float64Array.from(qkv)
  const w = Float64Array.from(weight)
  eachTurnedHead(s, (at, which) => {
    const part = w.subarray(which * s.headDim, (which + 1) * s.headDim)
    x.set(rmsNorm(x.slice(at, at + s.headDim), part, 1, s.headDim, eps).y, at)
  })
  return x
}

/** The adjoint of `headNorm` with respect to qkv. */
export const headNormBackward = (
  s: HeadShape,
  qkv: ArrayLike<number>,
  weight: ArrayLike<number>,
  eps: number,
  dy: ArrayLike<number>
): Float64Array => {
  const x = Float64Array.from(qkv)
  const w = Float64Array.from(weight)
  const out = Float64Array.from(dy)
  eachTurnedHead(s, (at, which) => {
    const part = w.subarray(which * s.headDim, (which + 1) * s.headDim)
    const head = x.slice(at, at + s.headDim)
    const { rstd } = rmsNorm(head, part, 1, s.headDim, eps)
    out.set(rmsNormBackward(head, part, rstd, out.slice(at, at + s.headDim), 1, s.headDim).dx, at)
  })
  return out
}
