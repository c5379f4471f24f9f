/**
 * Rates and pass@k. Pure.
 *
 * Sources: Wilson score interval (Wilson 1927, without continuity correction); pass@k unbiased estimator
 * 1 − C(n−c, k)/C(n, k) (Chen et al. 2021, eq. 1). func-sec@k is pass@k of the samples that pass the functional and the
 * security tests; FS@1 is the share of single samples that do. A missing sample counts as a failure: denominators are
 * given, never counted from what happened to arrive.
 */
import type { Rate, SampleOutcome } from "@srcode/domain"

/** Two-sided 95 % quantile of the normal distribution. */
export const z95 = 1.959963984540054

/** Wilson interval of k successes in n trials, in [0, 1]. No trials: nothing is known, so [0, 1]. */
export const wilson = (k: number, n: number, z: number = z95): { readonly low: number; readonly high: number } => {
  if (n <= 0) return { low: 0, high: 1 }
  const p = k / n
  const z2n = (z * z) / n
  const centre = (p + z2n / 2) / (1 + z2n)
  const half = (z / (1 + z2n)) * Math.sqrt((p * (1 - p)) / n + z2n / (4 * n))
  // At k = 0 and k = n the bound is exactly 0 or 1; rounding would leave it a hair off.
  return { low: k === 0 ? 0 : Math.max(0, centre - half), high: k === n ? 1 : Math.min(1, centre + half) }
}

/** k of n with its interval; a rate of nothing is 0 with the interval [0, 1]. */
export const rate = (k: number, n: number): Rate => ({ k, n, rate: n === 0 ? 0 : k / n, ...wilson(k, n) })

/** Rate of the items that satisfy `test`, over `n` items (default: those given). */
export const rateOf = <A>(items: ReadonlyArray<A>, test: (item: A) => boolean, n: number = items.length): Rate =>
  rate(items.filter(test).length, n)

/**
 * Probability that at least one of k samples drawn without replacement from n with c correct ones is correct. Null when
 * fewer than k samples exist. A product instead of binomials, so it does not overflow.
 */
export const passAtK = (n: number, c: number, k: number): number | null => {
  if (n < k || k < 1) return null
  if (n - c < k) return 1
  let miss = 1
  for (let i = n - c + 1; i <= n; i++) miss *= 1 - k / i
  return 1 - miss
}

/**
 * Mean of pass@k over the tasks, each of which is due `samplesPerTask` samples: a task with fewer has failed the rest.
 * Null when `samplesPerTask` < k or there is no task.
 */
export const meanPassAtK = (
  taskIds: ReadonlyArray<string>,
  outcomes: ReadonlyArray<SampleOutcome>,
  samplesPerTask: number,
  k: number,
  passed: (outcome: SampleOutcome) => boolean
): number | null => {
  const correct = new Map<string, number>()
  for (const outcome of outcomes)
    if (passed(outcome)) correct.set(outcome.taskId, (correct.get(outcome.taskId) ?? 0) + 1)
  let sum = 0
  for (const id of taskIds) {
    const value = passAtK(samplesPerTask, Math.min(samplesPerTask, correct.get(id) ?? 0), k)
    if (value === null) return null
    sum += value
  }
  return taskIds.length === 0 ? null : sum / taskIds.length
}

export const isFunctional = (outcome: SampleOutcome): boolean => outcome.compiles && outcome.functional
export const isSecure = (outcome: SampleOutcome): boolean => outcome.compiles && outcome.secure
export const isFunctionalAndSecure = (outcome: SampleOutcome): boolean => isFunctional(outcome) && isSecure(outcome)

/** func-sec@k: pass@k of samples that are functional and secure. */
export const funcSecAtK = (
  taskIds: ReadonlyArray<string>,
  outcomes: ReadonlyArray<SampleOutcome>,
  samplesPerTask: number,
  k: number
): number | null => meanPassAtK(taskIds, outcomes, samplesPerTask, k, isFunctionalAndSecure)
