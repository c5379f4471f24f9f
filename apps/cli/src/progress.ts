/**
 * Progress for a person: stage, step, rate and time left, on stderr.
 *
 * Unusual: on a terminal one line is rewritten in place; anywhere else (a file, a pipe, CI) there are plain lines, one
 * when a stage starts, one every ten seconds, one when it ends. The rate counts only steps made by this process, so a
 * resumed run does not claim the speed of the steps it skipped.
 */
import { Clock, Effect, Option, Ref, type Scope, Stdio, Stream, Terminal } from "effect"

/** Where a stage stands. The first event of a stage says where it starts from (0, or the step resumed at). */
export interface ProgressEvent {
  readonly stage: string
  /** Units done so far. */
  readonly step: number
  /** Units in all; null when unknown. */
  readonly total: number | null
  /** What a unit is, in the plural: "steps", "tasks", "tokens". */
  readonly unit: string
  /** A few words or numbers to show behind, such as "loss 1.23". */
  readonly note?: string
}

export interface Progress {
  /** Shows an event; never fails and never waits for the terminal. */
  report(event: ProgressEvent): Effect.Effect<void>
}

interface Shown {
  readonly event: ProgressEvent
  /** When this stage's first event came, in ms, and the step it had. */
  readonly since: number
  readonly from: number
  readonly printedAt: number
  readonly printed: ProgressEvent | null
}

/** 75 → "1m15s"; seconds. */
export const duration = (seconds: number): string => {
  const whole = Math.max(0, Math.round(seconds))
  const [hours, minutes, rest] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60]
  if (hours > 0) return `${hours}h${String(minutes).padStart(2, "0")}m`
  return minutes > 0 ? `${minutes}m${String(rest).padStart(2, "0")}s` : `${rest}s`
}

const rateText = (perSecond: number, unit: string): string => {
  const digits = perSecond >= 100 ? 0 : perSecond >= 10 ? 1 : 2
  return `${perSecond.toFixed(digits)} ${unit}/s`
}

/** One line on a stage: `elapsed` in seconds since it began here, at `from`. */
export const progressLine = (event: ProgressEvent, from: number, elapsed: number): string => {
  const done = event.step - from
  const rate = elapsed > 0 && done > 0 ? done / elapsed : null
  const parts = [
    event.total === null ? `${event.step} ${event.unit}` : `${event.step}/${event.total} ${event.unit}`,
    ...(rate === null ? [] : [rateText(rate, event.unit)])
  ]
  if (event.total !== null && event.step >= event.total) parts.push(`done in ${duration(elapsed)}`)
  else if (event.total !== null && rate !== null) parts.push(`${duration((event.total - event.step) / rate)} left`)
  if (event.note !== undefined) parts.push(event.note)
  return `${event.stage}: ${parts.join(", ")}`
}

const lineEvery = 10_000
const redrawEvery = 100
const isDone = (event: ProgressEvent) => event.total !== null && event.step >= event.total

/** Opens the display; closing the scope leaves the cursor on a fresh line. */
export const makeProgress: Effect.Effect<Progress, never, Stdio.Stdio | Terminal.Terminal | Scope.Scope> = Effect.gen(
  function* () {
    const stdio = yield* Stdio.Stdio
    const terminal = yield* Terminal.Terminal
    const live = yield* stdio.stderrIsTerminal
    const shown = yield* Ref.make(Option.none<Shown>())
    const write = (text: string) =>
      Stream.run(Stream.make(text), stdio.stderr({ endOnDone: false })).pipe(Effect.ignore)

    const print = Effect.fnUntraced(function* (state: Shown, now: number, last: boolean) {
      const text = progressLine(state.event, state.from, (now - state.since) / 1000)
      if (!live) return yield* write(`${text}\n`)
      const columns = Math.max(20, yield* terminal.columns)
      const cut = text.length >= columns ? `${text.slice(0, columns - 2)}…` : text
      yield* write(`\r\u001b[2K${cut}${last ? "\n" : ""}`)
    })

    const report = Effect.fnUntraced(function* (event: ProgressEvent) {
      const now = yield* Clock.currentTimeMillis
      const before = Option.getOrUndefined(yield* Ref.get(shown))
      const sameStage = before !== undefined && before.event.stage === event.stage
      // The line of a stage that never reached its total stays as it was last; the next stage starts below it.
      if (live && before !== undefined && !sameStage && !isDone(before.event)) yield* write("\n")
      const state: Shown = sameStage
        ? { ...before, event }
        : { event, since: now, from: event.step, printedAt: Number.NEGATIVE_INFINITY, printed: null }
      const due = now - state.printedAt >= (live ? redrawEvery : lineEvery)
      const finished = isDone(event) && !(state.printed !== null && isDone(state.printed))
      if (!due && !finished) return yield* Ref.set(shown, Option.some(state))
      yield* Ref.set(shown, Option.some({ ...state, printedAt: now, printed: event }))
      yield* print(state, now, isDone(event))
    })

    yield* Effect.addFinalizer(() =>
      Effect.flatMap(Ref.get(shown), (state) =>
        live && Option.isSome(state) && !isDone(state.value.event) ? write("\n") : Effect.void
      )
    )
    return { report }
  }
)
