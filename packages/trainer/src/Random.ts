/**
 * The trainer's seeded randomness: counter-based (SplitMix64 finaliser on seed, stream and counter), so that a resumed
 * run needs no generator state, only its step number.
 */

/** A uniform in [0, 1) from (seed, stream, counter); equal arguments give equal numbers. */
export const uniformAt = (seed: number, stream: number, counter: number): number => {
  let z =
    (BigInt(seed >>> 0) << 32n) ^ (BigInt(stream >>> 0) << 17n) ^ (BigInt(Math.floor(counter)) * 0x9e3779b97f4a7c15n)
  z = BigInt.asUintN(64, z + 0x9e3779b97f4a7c15n)
  z = BigInt.asUintN(64, (z ^ (z >> 30n)) * 0xbf58476d1ce4e5b9n)
  z = BigInt.asUintN(64, (z ^ (z >> 27n)) * 0x94d049bb133111ebn)
  z ^= z >> 31n
  return Number(z >> 11n) / 2 ** 53
}

/** A sequential stream of uniforms. */
export const uniforms = (seed: number, stream: number): (() => number) => {
  let counter = 0
  return () => uniformAt(seed, stream, counter++)
}

/** Standard normals by Box and Muller. */
export const normals = (seed: number, stream: number): (() => number) => {
  const next = uniforms(seed, stream)
  return () => Math.sqrt(-2 * Math.log(1 - next())) * Math.cos(2 * Math.PI * next())
}

/** A permutation of 0 … n - 1 (Fisher and Yates). */
export const permutation = (n: number, seed: number, stream: number): Uint32Array => {
  const next = uniforms(seed, stream)
  const order = Uint32Array.from({ length: n }, (_, i) => i)
  for (let i = n - 1; i > 0; i--) {
    const j = Math.floor(next() * (i + 1))
    const keep = order[i] ?? 0
    order[i] = order[j] ?? 0
    order[j] = keep
  }
  return order
}

/** The items of optimizer step `step` (from 0): `batch` indices of an endless sequence of shuffled (or plain) passes over n items. */
export const batchIndices = (
  n: number,
  batch: number,
  step: number,
  seed: number,
  shuffle: boolean
): ReadonlyArray<number> => {
  const orders = new Map<number, Uint32Array>()
  return Array.from({ length: batch }, (_, i) => {
    const at = step * batch + i
    const pass = Math.floor(at / n)
    if (!shuffle) return at % n
    const order = orders.get(pass) ?? permutation(n, seed, 1000 + pass)
    orders.set(pass, order)
    return order[at % n] ?? 0
  })
}
