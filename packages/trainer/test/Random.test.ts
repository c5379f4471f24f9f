/** The counter-based generator: uniformity, independence of streams, permutations, and batches that follow from the step. */
import { assert, describe, it } from "@effect/vitest"
import { batchIndices, normals, permutation, uniformAt, uniforms } from "../src/index.ts"

/** Within 5 standard deviations of a chi-square variable of so many degrees of freedom, on both sides. */
const assertUniform = (counts: ReadonlyArray<number>) => {
  const total = counts.reduce((a, b) => a + b, 0)
  const expected = total / counts.length
  const statistic = counts.reduce((sum, n) => sum + (n - expected) ** 2 / expected, 0)
  const freedom = counts.length - 1
  assert.isBelow(Math.abs(statistic - freedom), 5 * Math.sqrt(2 * freedom))
}

const tally = (values: Iterable<number>, bins: number): Array<number> => {
  const counts = new Array<number>(bins).fill(0)
  for (const value of values) counts[value] = (counts[value] ?? 0) + 1
  return counts
}

describe("uniforms", () => {
  it("lie in [0, 1), are spread evenly, and repeat for equal arguments only", () => {
    for (const [seed, stream] of [
      [0, 0],
      [1, 7],
      [4_294_967_295, 65_535]
    ] as const) {
      const values = Array.from({ length: 20_000 }, (_, i) => uniformAt(seed, stream, i))
      assert.isTrue(values.every((u) => u >= 0 && u < 1))
      assertUniform(
        tally(
          values.map((u) => Math.floor(u * 64)),
          64
        )
      )
      assert.strictEqual(new Set(values).size, values.length)
      const next = uniforms(seed, stream)
      assert.deepStrictEqual(
        values.slice(0, 50),
        Array.from({ length: 50 }, () => next())
      )
    }
  })

  it("neighbouring seeds, streams and counters are uncorrelated", () => {
    const draws = 20_000
    const base = (i: number) => uniformAt(3, 5, i) - 0.5
    for (const other of [
      (i: number) => uniformAt(4, 5, i),
      (i: number) => uniformAt(3, 6, i),
      (i: number) => uniformAt(3, 5, i + 1),
      (i: number) => uniformAt(5, 3, i)
    ]) {
      let sum = 0
      for (let i = 0; i < draws; i++) sum += base(i) * (other(i) - 0.5)
      // the correlation of independent draws has standard deviation 1/√n
      assert.isBelow(Math.abs((12 * sum) / draws), 5 / Math.sqrt(draws))
    }
  })

  it("normals have the moments of a standard normal", () => {
    const next = normals(11, 2)
    const values = Array.from({ length: 40_000 }, () => next())
    const moment = (k: number) => values.reduce((sum, x) => sum + x ** k, 0) / values.length
    assert.isTrue(values.every(Number.isFinite))
    assert.closeTo(moment(1), 0, 5 / Math.sqrt(values.length))
    assert.closeTo(moment(2), 1, 5 * Math.sqrt(2 / values.length))
    assert.closeTo(moment(3), 0, 5 * Math.sqrt(15 / values.length))
    assert.closeTo(moment(4), 3, 5 * Math.sqrt(96 / values.length))
  })
})

describe("permutation", () => {
  it("holds every index once", () => {
    for (const n of [0, 1, 2, 17, 1000])
      assert.deepStrictEqual(
        [...permutation(n, 5, n)].sort((a, b) => a - b),
        Array.from({ length: n }, (_, i) => i)
      )
  })

  it("every order of four items is equally likely", () => {
    const seen = new Map<string, number>()
    for (let stream = 0; stream < 4800; stream++) {
      const key = permutation(4, 9, stream).join()
      seen.set(key, (seen.get(key) ?? 0) + 1)
    }
    assert.strictEqual(seen.size, 24)
    assertUniform([...seen.values()])
  })
})

describe("batchIndices", () => {
  it("covers every pass exactly once, also when batches straddle passes or exceed them", () => {
    for (const [n, batch] of [
      [10, 4],
      [7, 7],
      [5, 13],
      [1, 3],
      [12, 1]
    ] as const) {
      for (const shuffle of [true, false]) {
        const steps = Math.ceil((3 * n) / batch)
        const all = Array.from({ length: steps }, (_, step) => batchIndices(n, batch, step, 42, shuffle))
        assert.isTrue(all.every((indices) => indices.length === batch))
        const flat = all.flat()
        for (let pass = 0; pass < 3; pass++)
          assert.deepStrictEqual(
            flat.slice(pass * n, (pass + 1) * n).sort((a, b) => a - b),
            Array.from({ length: n }, (_, i) => i)
          )
      }
    }
  })

  it("without shuffling it cycles in order; with it, passes and seeds differ and a step repeats itself", () => {
    assert.deepStrictEqual(batchIndices(5, 4, 0, 1, false), [0, 1, 2, 3])
    assert.deepStrictEqual(batchIndices(5, 4, 1, 1, false), [4, 0, 1, 2])
    assert.deepStrictEqual(batchIndices(50, 8, 3, 1, true), batchIndices(50, 8, 3, 1, true))
    const pass = (p: number, seed: number) => batchIndices(50, 50, p, seed, true).join()
    assert.strictEqual(new Set([pass(0, 1), pass(1, 1), pass(2, 1), pass(0, 2)]).size, 4)
  })
})
