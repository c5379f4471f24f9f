/**
 * Running mean and variance of the sequence reward over all responses seen so far (Chan et al. 1979: batches merge
 * without loss of accuracy and in any order). Plain data, so that a checkpoint can carry it: a run that goes on with
 * forgotten moments changes its reward scale.
 */
import { Schema } from "effect"

export const RunningMoments = Schema.Struct({
  count: Schema.Int.check(Schema.isGreaterThanOrEqualTo(0)),
  mean: Schema.Finite,
  /** Sum of squared deviations from the mean. */
  squares: Schema.Finite.check(Schema.isGreaterThanOrEqualTo(0))
})
export type RunningMoments = typeof RunningMoments.Type

export const emptyMoments: RunningMoments = { count: 0, mean: 0, squares: 0 }

/** The moments of both sets together. */
export const mergeMoments = (a: RunningMoments, b: RunningMoments): RunningMoments => {
  if (a.count === 0) return b
  if (b.count === 0) return a
  const count = a.count + b.count
  const distance = b.mean - a.mean
  return {
    count,
    mean: a.mean + (distance * b.count) / count,
    squares: a.squares + b.squares + (distance * distance * a.count * b.count) / count
  }
}

/** The moments after a batch of rewards. */
export const updateMoments = (moments: RunningMoments, batch: ReadonlyArray<number>): RunningMoments => {
  if (batch.length === 0) return moments
  const mean = batch.reduce((sum, value) => sum + value, 0) / batch.length
  const squares = batch.reduce((sum, value) => sum + (value - mean) ** 2, 0)
  return mergeMoments(moments, { count: batch.length, mean, squares })
}

/** Variance corrected for the number of values (n − 1); 0 below two values. */
export const variance = (moments: RunningMoments): number =>
  moments.count < 2 ? 0 : moments.squares / (moments.count - 1)

/**
 * (x − mean) / √(variance + ε), held within ±limit: while rewards have hardly varied yet, one that differs would
 * otherwise drown everything else. Update the moments with a batch before normalising it.
 */
export const normalise = (moments: RunningMoments, value: number, limit = 10, epsilon = 1e-8): number => {
  const distance = value - moments.mean
  const scaled = moments.count < 2 ? distance : distance / Math.sqrt(variance(moments) + epsilon)
  return Math.max(-limit, Math.min(limit, scaled))
}
