/**
 * Sampling under top-k, top-p and min-p in double precision, with the same counter-based generator as the kernel, so
 * that draws can be compared one by one.
 */

/** Threefry-2x32 with 20 rounds (Salmon et al. 2011): two key words, two counter words → two random words. */
export const threefry2x32 = (
  key: readonly [number, number],
  counter: readonly [number, number]
): readonly [number, number] => {
  const rotations = [13, 15, 26, 6, 17, 29, 16, 24]
  const ks = [key[0] >>> 0, key[1] >>> 0, (0x1bd11bda ^ key[0] ^ key[1]) >>> 0]
  let x0 = (counter[0] + ks[0]!) >>> 0
  let x1 = (counter[1] + ks[1]!) >>> 0
  for (let r = 0; r < 20; r++) {
    x0 = (x0 + x1) >>> 0
    const by = rotations[r % 8]!
    x1 = (((x1 << by) | (x1 >>> (32 - by))) ^ x0) >>> 0
    if (r % 4 === 3) {
      const s = (r >> 2) + 1
      x0 = (x0 + ks[s % 3]!) >>> 0
      x1 = (x1 + ks[(s + 1) % 3]! + s) >>> 0
    }
  }
  return [x0, x1]
}

/** The uniform in [0, 1) that the kernel draws for one row: the upper 24 bits of the first word. */
export const uniform = (seed: number, stream: number, position: number): number =>
  (threefry2x32([seed, stream], [position, 0])[0] >>> 8) / 2 ** 24

export interface Filters {
  readonly temperature: number
  /** 1 keeps all. */
  readonly topP: number
  /** 0 or nothing keeps all. */
  readonly topK?: number
  /** 0 or nothing keeps all. */
  readonly minP?: number
}

export interface Nucleus {
  /** Probabilities of the whole vocabulary at this temperature. */
  readonly probabilities: Float64Array
  readonly kept: ReadonlyArray<boolean>
  /** Mass of the kept tokens. */
  readonly mass: number
  /** How far the filters' decisions are from falling otherwise, in probability: small = ambiguous in f32. */
  readonly margin: number
}

/**
 * Top-k, then the smallest set of most likely tokens whose mass reaches topP of what is left, then those at least minP
 * times as likely as the most likely; ties with the last kept token stay in at each step. By sorting.
 */
export const nucleus = (logits: ArrayLike<number>, { minP = 0, temperature, topK = 0, topP }: Filters): Nucleus => {
  const x = Float64Array.from(logits, (v) => v / temperature)
  const top = x.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY)
  const e = x.map((v) => Math.exp(v - top))
  const total = e.reduce((a, b) => a + b, 0)
  const probabilities = e.map((v) => v / total)
  const sorted = [...probabilities].sort((a, b) => b - a)
  const massAbove = (threshold: number): number => sorted.filter((p) => p >= threshold).reduce((a, b) => a + b, 0)
  let threshold = topK > 0 && topK < sorted.length ? sorted[topK - 1]! : 0
  let margin = 1
  if (topP < 1) {
    const goal = topP * massAbove(threshold)
    let mass = 0
    let before = 0
    for (let i = 0; i < sorted.length && mass < goal; ) {
      threshold = sorted[i]!
      before = mass
      while (i < sorted.length && sorted[i]! === threshold) mass += sorted[i++]!
    }
    margin = Math.min(mass - goal, goal - before)
  }
  if (minP > 0) {
    const least = minP * sorted[0]!
    threshold = Math.max(threshold, least)
    for (const p of sorted) margin = Math.min(margin, Math.abs(p - least))
  }
  return { probabilities, kept: [...probabilities].map((p) => p >= threshold), mass: massAbove(threshold), margin }
}

/** The token drawn by `random` in [0, 1) through the inverse CDF in token order, and the distance to its nearest edge. */
export const draw = (n: Nucleus, random: number): { readonly token: number; readonly margin: number } => {
  const aim = random * n.mass
  let run = 0
  let token = 0
  for (let c = 0; c < n.kept.length; c++) {
    if (!n.kept[c]) continue
    const before = run
    run += n.probabilities[c]!
    token = c
    if (run > aim) return { token, margin: Math.min(aim - before, run - aim) }
  }
  return { token, margin: 0 }
}
