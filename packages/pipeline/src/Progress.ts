/** How a program tells where it stands. A reference with a silent default: tests need not provide it, apps do. */
import { Context, Effect } from "effect"

export interface ProgressEvent {
  readonly stage: string
  /** Units done so far, resumed ones included. */
  readonly step: number
  /** Units in all; null when unknown. */
  readonly total: number | null
  /** What a unit is, in the plural. */
  readonly unit: string
  readonly note?: string
}

export const Progress = Context.Reference<{ report(event: ProgressEvent): Effect.Effect<void> }>(
  "@srcode/pipeline/Progress",
  {
    defaultValue: () => ({ report: () => Effect.void })
  }
)

/** Reports to whoever listens. */
export const report = (event: ProgressEvent): Effect.Effect<void> =>
  Effect.flatMap(Progress, (progress) => progress.report(event))
