/** Timing for benchmarks: warm-up, then the median and the spread of several rounds. */
import { Clock, Effect } from "effect"

export interface Timing {
  /** Median seconds of a round. */
  readonly median: number
  readonly min: number
  readonly max: number
  /** Median of the processor seconds of this process: with a software driver the device's work is among them. */
  readonly cpu: number
  readonly rounds: number
}

/**
 * Runs `work` once unmeasured, then `rounds` times, or until `patience` seconds have passed in all; `work` must wait for the device itself.
 */
export const time = Effect.fnUntraced(function* <E, R>(
  rounds: number,
  work: Effect.Effect<unknown, E, R>,
  patience = Number.POSITIVE_INFINITY
) {
  const began = yield* Clock.currentTimeNanos
  yield* work
  const seconds: Array<number> = []
  const processor: Array<number> = []
  for (let i = 0; i < rounds; i++) {
    const [started, before] = [yield* Clock.currentTimeNanos, process.cpuUsage()]
    if (i > 0 && Number(started - began) / 1e9 > patience) break
    yield* work
    const { user, system } = process.cpuUsage(before)
    processor.push((user + system) / 1e6)
    seconds.push(Number((yield* Clock.currentTimeNanos) - started) / 1e9)
  }
  seconds.sort((a, b) => a - b)
  processor.sort((a, b) => a - b)
  const timing: Timing = {
    median: seconds[Math.floor(seconds.length / 2)] ?? 0,
    min: seconds[0] ?? 0,
    max: seconds.at(-1) ?? 0,
    cpu: processor[Math.floor(processor.length / 2)] ?? 0,
    rounds: seconds.length
  }
  return timing
})
