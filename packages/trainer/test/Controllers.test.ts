/** The KL controller and the running moments against closed forms, and their state through JSON. */
import { assert, describe, it } from "@effect/vitest"
import { Schema } from "effect"
import {
  emptyMoments,
  initialKlController,
  KlController,
  mergeMoments,
  normalise,
  RunningMoments,
  updateKlController,
  updateMoments,
  variance
} from "../src/index.ts"

const near = (actual: number, expected: number, tolerance = 1e-9) =>
  assert.isTrue(
    Math.abs(actual - expected) <= tolerance * Math.max(1, Math.abs(expected)),
    `expected ${expected}, got ${actual}`
  )

describe("KlController", () => {
  it("stays on target and moves by the clipped error times samples over horizon", () => {
    assert.strictEqual(updateKlController(initialKlController, 6, 64).coef, 0.2)
    near(updateKlController(initialKlController, 6.6, 100).coef, 0.2 * (1 + (0.1 * 100) / 10_000))
    near(updateKlController(initialKlController, 600, 100).coef, 0.2 * (1 + (0.2 * 100) / 10_000))
    near(updateKlController(initialKlController, -600, 100).coef, 0.2 * (1 - (0.2 * 100) / 10_000))
  })

  it("never goes below zero and ignores a KL that is not a number", () => {
    assert.strictEqual(updateKlController(initialKlController, 0, 1_000_000).coef, 0)
    assert.strictEqual(updateKlController(initialKlController, Number.NaN, 64), initialKlController)
  })

  it("drives a KL that answers to κ towards the target", () => {
    let controller: KlController = { coef: 0.2, target: 6, horizon: 1000 }
    // a policy whose KL falls as κ grows: KL = 3 / κ, on target at κ = .5
    for (let step = 0; step < 400; step++) controller = updateKlController(controller, 3 / controller.coef, 64)
    near(controller.coef, 0.5, 0.01)
  })

  it("goes through a checkpoint unchanged", () => {
    const controller = updateKlController(initialKlController, 7.7, 64)
    assert.deepStrictEqual(Schema.decodeUnknownSync(KlController)(JSON.parse(JSON.stringify(controller))), controller)
  })
})

const Values = Schema.Array(Schema.Finite.check(Schema.isBetween({ minimum: -100, maximum: 100 }))).check(
  Schema.isMaxLength(40)
)

describe("RunningMoments", () => {
  it("has the mean and variance of 1 2 3 4", () => {
    const moments = updateMoments(updateMoments(emptyMoments, [1, 2]), [3, 4])
    near(moments.mean, 2.5)
    near(variance(moments), 5 / 3)
    near(normalise(moments, 4), 1.5 / Math.sqrt(5 / 3), 1e-6)
  })

  it("keeps its accuracy far from zero, where Σx² − n·mean² loses every digit", () => {
    const moments = updateMoments(emptyMoments, [1e9, 1e9 + 1, 1e9 + 2])
    near(variance(moments), 1)
  })

  it("is finite and bounded before values vary", () => {
    assert.strictEqual(normalise(emptyMoments, 0.5), 0.5)
    const constant = updateMoments(emptyMoments, [0.5, 0.5, 0.5])
    assert.strictEqual(normalise(constant, 0.5), 0)
    assert.strictEqual(normalise(constant, 0.9), 10)
    assert.strictEqual(normalise(constant, 0.1, 3), -3)
  })

  it.prop("does not depend on how the values came in batches", { a: Values, b: Values, c: Values }, ({ a, b, c }) => {
    const whole = updateMoments(emptyMoments, [...a, ...b, ...c])
    const stepwise = updateMoments(updateMoments(updateMoments(emptyMoments, a), b), c)
    const merged = mergeMoments(
      updateMoments(emptyMoments, a),
      mergeMoments(updateMoments(emptyMoments, b), updateMoments(emptyMoments, c))
    )
    for (const other of [stepwise, merged]) {
      assert.strictEqual(other.count, whole.count)
      near(other.mean, whole.mean)
      near(variance(other), variance(whole), 1e-6)
    }
  })

  it("goes through a checkpoint unchanged", () => {
    const moments = updateMoments(emptyMoments, [0.1, 0.7, -3])
    assert.deepStrictEqual(Schema.decodeUnknownSync(RunningMoments)(JSON.parse(JSON.stringify(moments))), moments)
  })
})
