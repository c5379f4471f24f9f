/** Advantages against closed forms and against the definition; whitening against its own promises. */
import { assert, describe, it } from "@effect/vitest"
import { Schema } from "effect"
import { bootstrapValue, gae, whiten } from "../src/index.ts"

const near = (actual: number, expected: number, tolerance = 1e-12) =>
  assert.isTrue(
    Math.abs(actual - expected) <= tolerance * Math.max(1, Math.abs(expected)),
    `expected ${expected}, got ${actual}`
  )

const Small = Schema.Finite.check(Schema.isBetween({ minimum: -10, maximum: 10 }))
const Unit = Schema.Finite.check(Schema.isBetween({ minimum: 0, maximum: 1 }))
const Steps = Schema.Array(Schema.Struct({ reward: Small, value: Small })).check(
  Schema.isMinLength(1),
  Schema.isMaxLength(40)
)

describe("gae", () => {
  it("gives every token the final reward when V = 0 and γ = λ = 1", () => {
    const { advantages, returns } = gae([0, 0, 0, 3], [0, 0, 0, 0], { gamma: 1, lambda: 1, lastValue: 0 })
    assert.deepStrictEqual(advantages, [3, 3, 3, 3])
    assert.deepStrictEqual(returns, [3, 3, 3, 3])
  })

  it("discounts the final reward by (γλ)^distance when V = 0", () => {
    const { advantages } = gae([0, 0, 0, 1], [0, 0, 0, 0], { gamma: 0.9, lambda: 0.95, lastValue: 0 })
    for (const [t, advantage] of advantages.entries()) near(advantage, (0.9 * 0.95) ** (3 - t))
  })

  it("is the one-step error at λ = 0 and the Monte Carlo error at λ = 1", () => {
    const rewards = [1, -2, 0.5]
    const values = [0.3, 0.7, -0.1]
    const oneStep = gae(rewards, values, { gamma: 0.9, lambda: 0, lastValue: 0.4 })
    near(oneStep.advantages[0]!, 1 + 0.9 * 0.7 - 0.3)
    near(oneStep.advantages[1]!, -2 + 0.9 * -0.1 - 0.7)
    near(oneStep.advantages[2]!, 0.5 + 0.9 * 0.4 - -0.1)
    const full = gae(rewards, values, { gamma: 0.9, lambda: 1, lastValue: 0.4 })
    near(full.returns[0]!, 1 + 0.9 * -2 + 0.81 * 0.5 + 0.729 * 0.4)
    near(full.advantages[0]!, full.returns[0]! - 0.3)
  })

  it("has a constant penalty of −b on T tokens pay −b·(1 − λ^(T−t)) / (1 − λ)", () => {
    const length = 300
    const { advantages } = gae(new Array(length).fill(-0.2), new Array(length).fill(0), {
      gamma: 1,
      lambda: 0.95,
      lastValue: 0
    })
    for (const t of [0, 1, 150, 299]) near(advantages[t]!, (-0.2 * (1 - 0.95 ** (length - t))) / 0.05, 1e-9)
  })

  it("bootstraps with the last known value only when truncated and enabled", () => {
    assert.strictEqual(bootstrapValue([1, 2, 3], true, true), 3)
    assert.strictEqual(bootstrapValue([1, 2, 3], false, true), 0)
    assert.strictEqual(bootstrapValue([1, 2, 3], true, false), 0)
    const { advantages } = gae([0, 0], [5, 5], { gamma: 1, lambda: 0.95, lastValue: 5 })
    assert.deepStrictEqual(advantages, [0, 0])
  })

  it.prop(
    "equals the sum Σ (γλ)^l δ_{t+l} of the definition",
    { steps: Steps, gamma: Unit, lambda: Unit, lastValue: Small },
    ({ steps, gamma, lambda, lastValue }) => {
      const rewards = steps.map((step) => step.reward)
      const values = steps.map((step) => step.value)
      const { advantages, returns } = gae(rewards, values, { gamma, lambda, lastValue })
      const deltas = rewards.map((reward, t) => reward + gamma * (values[t + 1] ?? lastValue) - values[t]!)
      for (let t = 0; t < rewards.length; t++) {
        let expected = 0
        for (let l = 0; t + l < deltas.length; l++) expected += (gamma * lambda) ** l * deltas[t + l]!
        near(advantages[t]!, expected, 1e-9)
        near(returns[t]!, advantages[t]! + values[t]!)
      }
    }
  )
})

describe("whiten", () => {
  it("matches numbers worked out by hand", () => {
    // 1 2 3: mean 2, variance 1
    const whitened = whiten([1, 99, 2, 3], [true, false, true, true], 0)
    assert.deepStrictEqual(whitened, [-1, 0, 0, 1])
  })

  it("does not read masked entries, whatever they hold", () => {
    const mask = [true, true, false, true]
    const clean = whiten([0.5, -1, 0, 2], mask)
    for (const poison of [Number.NaN, Number.POSITIVE_INFINITY, 1e300]) {
      assert.deepStrictEqual(whiten([0.5, -1, poison, 2], mask), clean)
    }
  })

  it("gives finite zeros for nothing, one entry or a constant", () => {
    assert.deepStrictEqual(whiten([], []), [])
    assert.deepStrictEqual(whiten([7, 8], [false, false]), [0, 0])
    assert.deepStrictEqual(whiten([7, 8], [true, false]), [0, 0])
    assert.deepStrictEqual(whiten([7, 7, 7], [true, true, true]), [0, 0, 0])
  })

  it.prop(
    "has mean 0 and variance 1 over the mask, and 0 outside",
    { entries: Schema.Array(Schema.Struct({ value: Small, on: Schema.Boolean })).check(Schema.isMaxLength(60)) },
    ({ entries }) => {
      const mask = entries.map((entry) => entry.on)
      const values = entries.map((entry) => entry.value)
      const kept = values.filter((_, index) => mask[index])
      const whitened = whiten(values, mask)
      assert.isTrue(whitened.every((value, index) => mask[index] === true || value === 0))
      const spread = Math.max(...kept) - Math.min(...kept)
      if (kept.length < 2 || spread < 1) return
      const result = whitened.filter((_, index) => mask[index])
      const mean = result.reduce((sum, value) => sum + value, 0) / result.length
      near(mean, 0, 1e-9)
      near(result.reduce((sum, value) => sum + (value - mean) ** 2, 0) / (result.length - 1), 1, 1e-6)
    }
  )
})
