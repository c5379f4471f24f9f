/**
 * Generalised advantage estimation (Schulman et al. 2016) over packed sequences in double precision: tokens
 * first[b] … first[b + 1] belong to sequence b, after which the value is bootstrap[b].
 */
export const gae = (
  reward: ArrayLike<number>,
  value: ArrayLike<number>,
  first: ArrayLike<number>,
  bootstrap: ArrayLike<number>,
  gamma: number,
  lambda: number
): { readonly advantages: Float64Array; readonly returns: Float64Array } => {
  const advantages = new Float64Array(reward.length)
  const returns = new Float64Array(reward.length)
  for (let b = 0; b + 1 < first.length; b++) {
    let next = bootstrap[b]!
    let running = 0
    for (let t = first[b + 1]! - 1; t >= first[b]!; t--) {
      running = reward[t]! + gamma * next - value[t]! + gamma * lambda * running
      advantages[t] = running
      returns[t] = running + value[t]!
      next = value[t]!
    }
  }
  return { advantages, returns }
}
