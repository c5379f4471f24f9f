/**
 * A small seeded random source (sfc32, seeded through splitmix32).
 *
 * Unusual: it is mutable and plain, not an Effect service, because the corpus generator is a pure function of its seed
 * and draws some hundred thousand numbers per build. Equal seeds give equal sequences on every machine: only 32-bit
 * integer operations are used.
 */

export interface Random {
  /** The next unsigned 32-bit integer. */
  readonly uint32: () => number
  /** A uniform integer in [0, bound); `bound` is a positive integer below 2^32. */
  readonly below: (bound: number) => number
  /** A uniform number in [0, 1) with 32 random bits. */
  readonly unit: () => number
  /** One element, each equally likely; `items` is not empty. */
  readonly pick: <A>(items: readonly [A, ...ReadonlyArray<A>]) => A
  /** A shuffled copy (Fisher–Yates). */
  readonly shuffle: <A>(items: ReadonlyArray<A>) => Array<A>
}

const splitmix32 = (seed: number) => {
  let state = seed | 0
  return () => {
    state = (state + 0x9e3779b9) | 0
    let z = state
    z = Math.imul(z ^ (z >>> 16), 0x85ebca6b)
    z = Math.imul(z ^ (z >>> 13), 0xc2b2ae35)
    return (z ^ (z >>> 16)) | 0
  }
}

/** A source for `seed` (any safe integer) and an optional stream name: different names give unrelated sequences. */
export const makeRandom = (seed: number, stream = ""): Random => {
  const mix = splitmix32(hash32(`${seed}/${stream}`))
  let a = mix()
  let b = mix()
  let c = mix()
  let counter = 1
  const uint32 = () => {
    const t = (((a + b) | 0) + counter) | 0
    counter = (counter + 1) | 0
    a = b ^ (b >>> 9)
    b = (c + (c << 3)) | 0
    c = (c << 21) | (c >>> 11)
    c = (c + t) | 0
    return t >>> 0
  }
  for (let warm = 0; warm < 12; warm++) uint32()
  const below = (bound: number) => {
    const limit = 4294967296 - (4294967296 % bound)
    let value = uint32()
    while (value >= limit) value = uint32()
    return value % bound
  }
  return {
    uint32,
    below,
    unit: () => uint32() / 4294967296,
    pick: (items) => items[below(items.length)] ?? items[0],
    shuffle: (items) => {
      const copy = [...items]
      for (let at = copy.length - 1; at > 0; at--) {
        const other = below(at + 1)
        const [x, y] = [copy[at], copy[other]]
        if (x === undefined || y === undefined) continue
        copy[at] = y
        copy[other] = x
      }
      return copy
    }
  }
}

/** 32-bit hash of a text's UTF-16 code units (FNV-1a with a final avalanche), unsigned. */
export const hash32 = (text: string): number => {
  let hash = 0x811c9dc5
  for (let at = 0; at < text.length; at++) hash = Math.imul(hash ^ text.charCodeAt(at), 0x01000193)
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b)
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35)
  return (hash ^ (hash >>> 16)) >>> 0
}
