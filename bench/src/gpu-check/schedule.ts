/**
 * How a check's time is shared. Every section has a part of it that is its own, and the parts add up to the whole: a section may run
 * until the sum of its part and all before it, so what earlier ones leave over rolls on, and none can take from those that follow.
 */

/** Seconds of the whole that no section gets: what starting, ending and writing take. */
export const reserve = 4

/** Seconds after the start by which each section has to end. `parts` are in any unit; `total` is seconds. */
export const deadlinesOf = (parts: ReadonlyArray<number>, total: number): ReadonlyArray<number> => {
  const sum = parts.reduce((a, b) => a + b, 0)
  const usable = Math.max(0, total - Math.min(reserve, 0.05 * total))
  let so = 0
  return parts.map((part) => {
    so += part
    return sum > 0 ? (usable * so) / sum : 0
  })
}

/** Seconds that a section has which begins `elapsed` seconds after the start: never fewer than its part where those before kept theirs. */
export const secondsFor = (deadlines: ReadonlyArray<number>, index: number, elapsed: number): number =>
  Math.max(0, (deadlines[index] ?? 0) - elapsed)

/** Fewer seconds than these are not worth starting a process for. */
export const worthStarting = 2
