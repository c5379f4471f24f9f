/** Global gradient norm and clip factor in double precision, as PyTorch's clip_grad_norm_; clip 0 means no clipping. */
export const gradNorm = (
  g: ArrayLike<number>,
  clip: number
): { readonly scale: number; readonly norm: number; readonly notFinite: boolean } => {
  let sum = 0
  let notFinite = false
  for (let i = 0; i < g.length; i++) {
    if (Number.isFinite(g[i]!)) sum += g[i]! ** 2
    else notFinite = true
  }
  const norm = Math.sqrt(sum)
  return { scale: notFinite ? 0 : clip > 0 ? Math.min(1, clip / (norm + 1e-6)) : 1, norm, notFinite }
}
