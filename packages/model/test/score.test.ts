/** The scorer: passes, order, temperature, edges and what it refuses. */
import { assert, layer } from "@effect/vitest"
import { Effect } from "effect"
import { loadModel, makeScorer } from "../src/index.ts"
import { plain, randomSequences, referenceConfig } from "./reference/checkpoint.ts"
import { assertNear, DeviceLayer, loadShape } from "./reference/device.ts"
import { lossOf } from "./reference/loss.ts"
import { failsWith } from "./support.ts"

layer(DeviceLayer)("the scorer", (it) => {
  it.effect("results stand in the order given, whatever the capacity of a pass", () =>
    Effect.gen(function* () {
      const { model, parameters } = yield* loadShape(plain, 1)
      const sequences = randomSequences(plain.vocab, [5, 0, 12, 1, 9, 2, 0, 12, 3, 7], 2)
      const wide = yield* makeScorer(model.decoder, { capacity: 128, rank: 0 })
      const whole = yield* wide.score(null, sequences)
      assert.lengthOf(whole, sequences.length)
      for (const capacity of [12, 13, 25]) {
        const narrow = yield* makeScorer(model.decoder, { capacity, rank: 0 })
        assert.deepStrictEqual(yield* narrow.score(null, sequences), whole)
      }
      sequences.forEach((sequence, i) => {
        const expected = lossOf(referenceConfig(plain), parameters, null, [sequence], {
          logProb: 1,
          entropy: 0,
          temperature: 1
        })
        assert.lengthOf(whole[i]!.logProbs, expected.logProbs.length)
        assertNear(`log-probabilities ${i}`, whole[i]!.logProbs, expected.logProbs)
        assertNear(`entropies ${i}`, whole[i]!.entropy, expected.entropy)
      })
    })
  )

  it.effect("temperature divides the logits", () =>
    Effect.gen(function* () {
      const { model, parameters } = yield* loadShape(plain, 3)
      const sequences = randomSequences(plain.vocab, [15], 4)
      const scorer = yield* makeScorer(model.decoder, { capacity: 16, rank: 0 })
      for (const temperature of [0.3, 0.8, 2.5]) {
        const [scores] = yield* scorer.score(null, sequences, temperature)
        const weights = { logProb: 1, entropy: 0, temperature }
        const expected = lossOf(referenceConfig(plain), parameters, null, sequences, weights)
        assertNear("log-probabilities", scores!.logProbs, expected.logProbs)
        assertNear("entropies", scores!.entropy, expected.entropy)
      }
    })
  )

  it.effect("nothing to score is nothing: no sequences, empty ones, single tokens, no loss", () =>
    Effect.gen(function* () {
      const { model } = yield* loadShape(plain, 5)
      const scorer = yield* makeScorer(model.decoder, { capacity: 8, rank: 0 })
      assert.deepStrictEqual(yield* scorer.score(null, []), [])
      const silent = [
        { ids: [] },
        { ids: [3], loss: () => true },
        { ids: [1, 2, 3] },
        { ids: [4, 5], loss: () => false }
      ]
      const scores = yield* scorer.score(null, silent)
      assert.deepStrictEqual(
        scores.map((s) => [s.logProbs.length, s.entropy.length]),
        silent.map(() => [0, 0])
      )
    })
  )

  it.effect("too long, out of the vocabulary and a bad temperature are typed errors with one line", () =>
    Effect.gen(function* () {
      const { directory, model } = yield* loadShape(plain, 6)
      const scorer = yield* makeScorer(model.decoder, { capacity: 16, rank: 0 })
      const good = { ids: [1, 2, 3], loss: () => true }
      const expected = yield* scorer.score(null, [good])
      const fails = (ids: ReadonlyArray<number>, temperature?: number, from = scorer) =>
        failsWith(
          Effect.catchTag(from.score(null, [good, { ids, loss: () => true }], temperature), "GpuError", Effect.die),
          "Invalid"
        )
      assert.include((yield* fails(Array.from({ length: 17 }, () => 1))).message, "16")
      assert.include((yield* fails([1, plain.vocab])).message, String(plain.vocab))
      yield* fails([-1, 1])
      yield* fails([0.5, 1])
      yield* fails([Number.NaN])
      for (const temperature of [0, -1, Number.NaN, Number.POSITIVE_INFINITY])
        assert.include((yield* fails([1, 2], temperature)).message, "temperature")
      const short = yield* loadModel(directory, { maxTokens: 8 })
      const limited = yield* makeScorer(short.decoder, { capacity: 16, rank: 0 })
      assert.include((yield* fails([1, 2, 3, 4, 5, 6, 7, 8, 9], 1, limited)).message, "8")
      assert.deepStrictEqual(yield* scorer.score(null, [good]), expected)
    })
  )

  it.effect("a model whose heads no kernel can take is refused when it is loaded", () =>
    Effect.gen(function* () {
      const loaded = loadShape({ ...plain, headDim: 6 }, 7).pipe(
        Effect.catchTag(["GpuError", "PlatformError"], Effect.die)
      )
      assert.include((yield* failsWith(loaded, "Unsupported")).message, "head_dim 6")
    })
  )
})
