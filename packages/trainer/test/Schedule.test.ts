/** Learning-rate schedules against their closed forms. */
import { assert, describe, it } from "@effect/vitest"
import { learningRate } from "../src/index.ts"

describe("learningRate", () => {
  it("warms up linearly and reaches the full rate with the last warm-up step", () => {
    for (const kind of ["constant", "linear", "cosine"] as const) {
      for (let step = 0; step < 8; step++)
        assert.closeTo(learningRate(kind, 3e-4, step, 100, 8), (3e-4 * (step + 1)) / 8, 1e-18)
      assert.strictEqual(learningRate(kind, 3e-4, 7, 100, 8), 3e-4)
      // the first step after it still has the full rate
      assert.closeTo(learningRate(kind, 3e-4, 8, 100, 8), 3e-4, 1e-18)
      assert.strictEqual(learningRate(kind, 3e-4, 0, 100, 0), 3e-4)
    }
  })

  it("constant stays", () => {
    for (const step of [0, 50, 99, 500]) assert.strictEqual(learningRate("constant", 0.1, step, 100, 0), 0.1)
  })

  it("linear falls by the same amount each step, to lr / (steps - warmup) at the last and 0 after it", () => {
    for (let step = 10; step < 60; step++)
      assert.closeTo(learningRate("linear", 0.2, step, 60, 10), 0.2 * (1 - (step - 10) / 50), 1e-16)
    assert.closeTo(learningRate("linear", 0.2, 59, 60, 10), 0.2 / 50, 1e-15)
    assert.strictEqual(learningRate("linear", 0.2, 60, 60, 10), 0)
  })

  it("cosine is ½ lr (1 + cos πt): half at the middle, symmetric about it, 0 at the end and beyond", () => {
    const at = (step: number) => learningRate("cosine", 0.4, step, 110, 10)
    assert.closeTo(at(10), 0.4, 1e-16)
    assert.closeTo(at(60), 0.2, 1e-16)
    assert.closeTo(at(35), 0.2 * (1 + Math.SQRT1_2), 1e-15)
    assert.closeTo(at(110), 0, 1e-16)
    assert.closeTo(at(1000), 0, 1e-16)
    for (let d = 0; d <= 50; d++) assert.closeTo(at(60 - d) + at(60 + d), 0.4, 1e-15)
    for (let step = 10; step < 110; step++) assert.isBelow(at(step + 1), at(step))
  })

  it("a run that is all warm-up, or of one step, has finite positive rates", () => {
    for (const kind of ["constant", "linear", "cosine"] as const) {
      assert.isAbove(learningRate(kind, 1, 0, 1, 0), 0)
      for (let step = 0; step < 5; step++) assert.isAbove(learningRate(kind, 1, step, 5, 5), 0)
      assert.isTrue(Number.isFinite(learningRate(kind, 1, 5, 5, 5)))
    }
  })
})
