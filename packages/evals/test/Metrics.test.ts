import { assert, describe, it } from "@effect/vitest"
import type { SampleOutcome } from "@srcode/domain"
import { funcSecAtK, passAtK, rate, rateOf, wilson } from "../src/index.ts"

const close = (actual: number, expected: number, tolerance = 1e-9) =>
  assert.isTrue(Math.abs(actual - expected) <= tolerance, `${actual} is not ${expected}`)

describe("the Wilson interval", () => {
  it("has the textbook values", () => {
    // Newcombe 1998, table I: 81/263 and 15/148, 0/20, 1/29, 95 %, without continuity correction.
    for (const [k, n, low, high] of [
      [81, 263, 0.2553, 0.3662],
      [15, 148, 0.0624, 0.1605],
      [0, 20, 0, 0.1611],
      [1, 29, 0.0061, 0.1718]
    ] as const) {
      close(wilson(k, n).low, low, 5e-5)
      close(wilson(k, n).high, high, 5e-5)
    }
  })
  it("solves its defining equation |p − k/n| = z·sqrt(p(1−p)/n), holds the rate and narrows with n", () => {
    for (let n = 1; n <= 60; n++)
      for (let k = 0; k <= n; k++) {
        const { low, high } = wilson(k, n)
        assert.isTrue(0 <= low && low <= k / n && k / n <= high && high <= 1)
        for (const p of [k === 0 ? null : low, k === n ? null : high])
          if (p !== null) close(Math.abs(p - k / n), 1.959963984540054 * Math.sqrt((p * (1 - p)) / n), 1e-9)
        const more = wilson(k * 10, n * 10)
        assert.isTrue(more.high - more.low < high - low)
      }
  })
  it("of nothing says nothing", () => {
    assert.deepStrictEqual(rate(0, 0), { k: 0, n: 0, rate: 0, low: 0, high: 1 })
    assert.deepStrictEqual(rateOf([1, 2, 3], (x) => x > 1, 4).rate, 0.5)
  })
})

describe("pass@k", () => {
  const choose = (n: number, k: number): number => (k > n ? 0 : k === 0 ? 1 : (choose(n - 1, k - 1) * n) / k)
  it("is 1 − C(n−c, k)/C(n, k)", () => {
    for (let n = 1; n <= 20; n++)
      for (let c = 0; c <= n; c++)
        for (let k = 1; k <= n; k++) close(passAtK(n, c, k) ?? -1, 1 - choose(n - c, k) / choose(n, k))
    assert.isNull(passAtK(3, 1, 4))
    assert.isNull(passAtK(3, 1, 0))
    close(passAtK(10_000, 3, 5000) ?? -1, 1 - (5000 * 4999 * 4998) / (10_000 * 9999 * 9998), 1e-9)
  })
  it("is the mean over all subsets of k samples", () => {
    const [n, c, k] = [7, 3, 4]
    let hit = 0
    let all = 0
    for (let set = 0; set < 1 << n; set++) {
      const bits = Array.from({ length: n }, (_, i) => (set >> i) & 1)
      if (bits.reduce((a, b) => a + b, 0) !== k) continue
      all++
      if (bits.slice(0, c).some((bit) => bit === 1)) hit++
    }
    close(passAtK(n, c, k) ?? -1, hit / all)
  })
  it("func-sec@k counts a sample only when functional and secure, and a missing one as failed", () => {
    const outcome = (taskId: string, functional: boolean, secure: boolean, compiles = true): SampleOutcome => ({
      taskId,
      group: "g",
      prompt: "p",
      response: "r",
      compiles,
      functional,
      secure,
      detail: ""
    })
    const outcomes = [
      outcome("a", true, true),
      outcome("a", true, false),
      outcome("b", false, true),
      outcome("b", true, true, false),
      outcome("c", true, true)
    ]
    close(funcSecAtK(["a", "b", "c", "d"], outcomes, 2, 1) ?? -1, (0.5 + 0 + 0.5 + 0) / 4)
    close(funcSecAtK(["a", "b", "c", "d"], outcomes, 2, 2) ?? -1, 2 / 4)
    assert.isNull(funcSecAtK(["a"], outcomes, 2, 3))
    assert.isNull(funcSecAtK([], outcomes, 2, 1))
  })
})
