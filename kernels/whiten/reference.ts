/**
 * Masked whitening in double precision: (x − mean) / √(var + 1e-8) with the variance over n − 1; masked entries are never
 * read and give 0; fewer than two unmasked entries give 0.
 */
export const whiten = (x: ArrayLike<number>, mask: ArrayLike<number>): Float64Array => {
  const kept: Array<number> = []
  for (let i = 0; i < x.length; i++) if (mask[i] !== 0) kept.push(x[i]!)
  const out = new Float64Array(x.length)
  if (kept.length < 2) return out
  const mean = kept.reduce((a, b) => a + b, 0) / kept.length
  const variance = kept.reduce((a, b) => a + (b - mean) ** 2, 0) / (kept.length - 1)
  for (let i = 0; i < x.length; i++) if (mask[i] !== 0) out[i] = (x[i]! - mean) / Math.sqrt(variance + 1e-8)
  return out
}
