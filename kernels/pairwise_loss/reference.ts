/** Bradley–Terry loss in double precision: mean over pairs of −log σ(chosen − rejected); score alternates (chosen, rejected). */
export const pairwiseLoss = (
  score: ArrayLike<number>
): { readonly loss: number; readonly accuracy: number; readonly dScore: Float64Array } => {
  const pairs = score.length / 2
  const dScore = new Float64Array(score.length)
  let loss = 0
  let correct = 0
  for (let i = 0; i < pairs; i++) {
    const d = score[2 * i]! - score[2 * i + 1]!
    loss += Math.max(-d, 0) + Math.log1p(Math.exp(-Math.abs(d)))
    if (d > 0) correct++
    const g = -1 / (1 + Math.exp(d)) / pairs
    dScore[2 * i] = g
    dScore[2 * i + 1] = -g
  }
  return { loss: loss / pairs, accuracy: correct / pairs, dScore }
}
