/** Line differences and token similarity. Pure. */

export interface LineDiff {
  /** Lines removed plus lines added. */
  readonly changedLines: number
  /** Runs of neighbouring changes. */
  readonly hunks: number
  /** 1-based numbers of the lines of `before` that are not in `after`. */
  readonly removed: ReadonlyArray<number>
  /** 1-based numbers of the lines of `after` that are not in `before`. */
  readonly added: ReadonlyArray<number>
  /** 1-based line of `before` at which the first change stands; null without a change. */
  readonly firstChange: number | null
}

/** Beyond this many differing lines the middle part counts as changed whole: the search is quadratic in them. */
const maxDistance = 600

/** Shortest edit script by Myers's greedy algorithm (1986); lines are compared without the whitespace at their ends. */
export const lineDiff = (before: string, after: string): LineDiff => {
  const split = (text: string) => text.split("\n").map((line) => line.trim())
  const a = split(before)
  const b = split(after)
  let start = 0
  while (start < a.length && start < b.length && a[start] === b[start]) start++
  let [aEnd, bEnd] = [a.length, b.length]
  while (aEnd > start && bEnd > start && a[aEnd - 1] === b[bEnd - 1]) {
    aEnd--
    bEnd--
  }
  const kept = matches(a.slice(start, aEnd), b.slice(start, bEnd)).map(([x, y]) => [x + start, y + start] as const)
  const removed: Array<number> = []
  const added: Array<number> = []
  let hunks = 0
  let firstChange: number | null = null
  let [x, y] = [start, start]
  for (const [nextX, nextY] of [...kept, [aEnd, bEnd] as const]) {
    if (nextX > x || nextY > y) {
      hunks++
      firstChange ??= Math.min(x + 1, Math.max(1, a.length))
    }
    for (; x < nextX; x++) removed.push(x + 1)
    for (; y < nextY; y++) added.push(y + 1)
    x = nextX + 1
    y = nextY + 1
  }
  return { changedLines: removed.length + added.length, hunks, removed, added, firstChange }
}

/** Index pairs of equal lines on a longest common subsequence; none when more than `maxDistance` lines differ. */
const matches = (a: ReadonlyArray<string>, b: ReadonlyArray<string>): ReadonlyArray<readonly [number, number]> => {
  const limit = Math.min(a.length + b.length, maxDistance)
  const furthest = new Map<number, number>([[1, 0]])
  const trace: Array<Map<number, number>> = []
  for (let d = 0; d <= limit; d++) {
    trace.push(new Map(furthest))
    for (let k = -d; k <= d; k += 2) {
      const down = k === -d || (k !== d && (furthest.get(k - 1) ?? -1) < (furthest.get(k + 1) ?? -1))
      let x = down ? (furthest.get(k + 1) ?? 0) : (furthest.get(k - 1) ?? 0) + 1
      let y = x - k
      while (x < a.length && y < b.length && a[x] === b[y]) {
        x++
        y++
      }
      furthest.set(k, x)
      if (x >= a.length && y >= b.length) return walkBack(trace, a.length, b.length)
    }
  }
  return []
}

const walkBack = (trace: ReadonlyArray<Map<number, number>>, n: number, m: number) => {
  const pairs: Array<readonly [number, number]> = []
  let [x, y] = [n, m]
  for (let d = trace.length - 1; d >= 0; d--) {
    const row = trace[d] ?? new Map<number, number>()
    const k = x - y
    const down = k === -d || (k !== d && (row.get(k - 1) ?? -1) < (row.get(k + 1) ?? -1))
    const previousK = down ? k + 1 : k - 1
    const previousX = row.get(previousK) ?? 0
    const previousY = previousX - previousK
    while (x > previousX && y > previousY && x > 0 && y > 0) pairs.push([--x, --y])
    x = previousX
    y = previousY
  }
  return pairs.reverse()
}

/**
 * Likeness in [0, 1]: the Dice coefficient of the two multisets of neighbouring token pairs (with a mark before the first
 * and after the last). 1 for equal sequences; linear time, so it does not matter how long the functions are.
 */
export const tokenSimilarity = (a: ReadonlyArray<string>, b: ReadonlyArray<string>): number => {
  const pairs = (tokens: ReadonlyArray<string>) => {
    const counts = new Map<string, number>()
    let previous = ""
    for (const token of [...tokens, ""]) {
      const pair = `${previous}\n${token}`
      counts.set(pair, (counts.get(pair) ?? 0) + 1)
      previous = token
    }
    return counts
  }
  const [left, right] = [pairs(a), pairs(b)]
  let common = 0
  for (const [pair, count] of left) common += Math.min(count, right.get(pair) ?? 0)
  return (2 * common) / (a.length + b.length + 2)
}
