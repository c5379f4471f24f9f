/**
 * Generalised advantage estimation (Schulman et al. 2016) and masked whitening in double precision: the reference for
 * the kernels, and what the `rewards` command prints.
 *
 * For tokens t = 0 … T−1 with state s_t before token t:
 *   δ_t = r_t + γ·V(s_{t+1}) − V(s_t),   A_t = δ_t + γλ·A_{t+1},   R_t = A_t + V(s_t).
 * Returns are formed from the advantages as they are here, before any whitening.
 */

export interface GaeOptions {
  readonly gamma: number
  readonly lambda: number
  /**
   * V(s_T), the value after the last token: 0 when the response ended by itself. For a response cut off by length, an
   * estimate of what would have followed (`bootstrapValue`).
   */
  readonly lastValue: number
}

export interface Advantages {
  readonly advantages: ReadonlyArray<number>
  readonly returns: ReadonlyArray<number>
}

/**
 * The value to put after the last token. The critic never sees the state after the last token of a rollout, so a
 * truncated response is continued with the value of its last known state, V(s_{T−1}); any other ends with 0.
 */
export const bootstrapValue = (values: ReadonlyArray<number>, truncated: boolean, enabled: boolean): number =>
  enabled && truncated ? (values.at(-1) ?? 0) : 0

/** Advantages and returns of one response; `rewards` and `values` have the same length T. */
export const gae = (
  rewards: ReadonlyArray<number>,
  values: ReadonlyArray<number>,
  { gamma, lambda, lastValue }: GaeOptions
): Advantages => {
  const length = rewards.length
  const advantages = new Array<number>(length).fill(0)
  const returns = new Array<number>(length).fill(0)
  let next = lastValue
  let running = 0
  for (let t = length - 1; t >= 0; t--) {
    const value = values[t]!
    running = rewards[t]! + gamma * next - value + gamma * lambda * running
    advantages[t] = running
    returns[t] = running + value
    next = value
  }
  return { advantages, returns }
}

/**
 * Shifts and scales the unmasked entries to mean 0 and variance 1: (x − mean) / √(var + ε), with the variance corrected
 * for the number of entries (n − 1). Masked entries come out as 0 and are never read, so they may hold anything. Fewer
 * than two entries have no variance and give 0.
 */
export const whiten = (
  values: ReadonlyArray<number>,
  mask: ReadonlyArray<boolean>,
  epsilon = 1e-8
): ReadonlyArray<number> => {
  let count = 0
  let sum = 0
  for (const [index, value] of values.entries()) {
    if (mask[index] !== true) continue
    count++
    sum += value
  }
  if (count < 2) return values.map(() => 0)
  const mean = sum / count
  let squares = 0
  for (const [index, value] of values.entries()) if (mask[index] === true) squares += (value - mean) ** 2
  const scale = 1 / Math.sqrt(squares / (count - 1) + epsilon)
  return values.map((value, index) => (mask[index] === true ? (value - mean) * scale : 0))
}
