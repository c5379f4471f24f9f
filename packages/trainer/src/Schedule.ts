/** Learning-rate schedules, per optimizer step. */
import { Schema } from "effect"

export const ScheduleKind = Schema.Literals(["constant", "linear", "cosine"])
export type ScheduleKind = typeof ScheduleKind.Type

/**
 * The learning rate of optimizer step `step` (from 0) of `steps`: linear warm-up over the first `warmup` steps, then
 * constant, linear to 0, or cosine from `lr` to 0 (½ lr (1 + cos π t)), with t = (step - warmup) / (steps - warmup).
 */
export const learningRate = (kind: ScheduleKind, lr: number, step: number, steps: number, warmup: number): number => {
  if (step < warmup) return (lr * (step + 1)) / warmup
  if (kind === "constant") return lr
  const t = Math.min(1, (step - warmup) / Math.max(1, steps - warmup))
  return kind === "linear" ? lr * (1 - t) : 0.5 * lr * (1 + Math.cos(Math.PI * t))
}
