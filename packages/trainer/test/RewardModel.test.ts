/** The pairwise reward model: scores, loss and step against double precision, learning, images, refusals. */
import { assert, layer } from "@effect/vitest"
import { Gpu } from "@srcode/gpu"
import { loraScale } from "@srcode/model"
import { Effect } from "effect"
import {
  makeRewardModel,
  normals,
  type PreferencePair,
  type RewardModelConfig,
  type RewardModelStep,
  rewardModelLength,
  uniformAt
} from "../src/index.ts"
import { decode, Graph } from "./reference.ts"
import {
  assertNear,
  config,
  DeviceLayer,
  fails,
  onGraph,
  randomAdapter,
  relativeError,
  tinyDecoder
} from "./tinyModel.ts"

const C = config.hiddenSize
const settings: RewardModelConfig = {
  steps: 1,
  batchSize: 3,
  lr: 1e-3,
  rank: 2,
  alpha: 4,
  clip: 0,
  seed: 1,
  capacity: 80
}

const idsOf = (seed: number, stream: number, length: number) =>
  Array.from({ length }, (_, t) => Math.floor(uniformAt(seed, stream, t) * config.vocabSize))
const pairs: ReadonlyArray<PreferencePair> = Array.from({ length: 3 }, (_, i) => ({
  chosen: idsOf(3, i, 3 + 2 * i),
  rejected: idsOf(4, i, 8 - i)
}))

/** An adapter and a head away from zero. */
const randomImage = (): Float32Array<ArrayBuffer> => {
  const next = normals(21, 0)
  const adapter = randomAdapter(settings.rank, 8)
  const image = new Float32Array(adapter.length + C + 1)
  image.set(adapter)
  for (let i = adapter.length; i < image.length; i++) image[i] = 0.5 * next()
  return image
}

const silent = () => Effect.void

/** Scores, pairwise loss and gradient of an image in double precision. */
const reference = (weights: Float32Array, image: Float32Array, some: ReadonlyArray<PreferencePair>) => {
  const graph = new Graph()
  const adapter = image.slice(0, -(C + 1))
  const model = onGraph(graph, weights, adapter, settings.rank, loraScale(settings.rank, settings.alpha, false))
  const head = graph.leaves(image.slice(adapter.length, -1))
  const bias = graph.leaf(image.at(-1) ?? 0)
  const score = (ids: ReadonlyArray<number>) =>
    graph.sum(graph.dot(decode(graph, config, model.tensors, model.lora, ids).states.at(-1)!, head), bias)
  const scored = some.map(({ chosen, rejected }) => [score(chosen), score(rejected)] as const)
  const losses = scored.map(([chosen, rejected]) => graph.scale(graph.logSoftmax([chosen, rejected])[0]!, -1))
  const loss = graph.scale(graph.sum(...losses), 1 / some.length)
  graph.backward(loss)
  return {
    scores: scored.flat().map((x) => x.value),
    loss: loss.value,
    accuracy: scored.filter(([chosen, rejected]) => chosen.value > rejected.value).length / some.length,
    gradient: Float32Array.from([...model.gradient(), ...head.map((x) => x.grad), bias.grad])
  }
}

layer(DeviceLayer)("the reward model", (it) => {
  it.effect("a score is the head on the last token's state", () =>
    Effect.gen(function* () {
      const { decoder, image: weights } = yield* tinyDecoder()
      const model = yield* makeRewardModel(decoder, settings)
      const image = randomImage()
      assert.strictEqual(image.length, rewardModelLength(decoder, settings.rank))
      yield* model.load(image)
      assert.deepStrictEqual(yield* model.image, image)
      const expected = reference(weights, image, pairs)
      const sequences = pairs.flatMap((p) => [p.chosen, p.rejected])
      assertNear("scores", yield* model.score(sequences), expected.scores, 1e-5)
      // one a pass, another order, a single token, none
      const small = yield* makeRewardModel(decoder, { ...settings, capacity: 8 })
      yield* small.load(image)
      const reversed = yield* small.score(sequences.toReversed())
      assertNear("reversed", reversed.toReversed(), expected.scores, 1e-5)
      assert.deepStrictEqual(yield* model.score([]), [])
      const one = reference(weights, image, [{ chosen: [4], rejected: [5] }])
      assertNear("one token", yield* model.score([[4], [5]]), one.scores, 1e-5)
    })
  )

  it.effect("loss, accuracy and gradient are those of double precision, and the step goes down it", () =>
    Effect.gen(function* () {
      const { decoder, image: weights } = yield* tinyDecoder()
      const model = yield* makeRewardModel(decoder, settings)
      const image = randomImage()
      yield* model.load(image)
      const expected = reference(weights, image, pairs)
      const steps: Array<RewardModelStep> = []
      yield* model.train(pairs, (step) => {
        steps.push(step)
        return Effect.void
      })
      const seen = steps[0]!
      assert.deepStrictEqual([steps.length, seen.step], [1, 1])
      assert.closeTo(seen.loss / expected.loss, 1, 1e-5)
      assert.closeTo(seen.accuracy, expected.accuracy, 1e-6)
      assert.closeTo(seen.gradNorm / Math.hypot(...expected.gradient), 1, 1e-4)
      // Adam's first step has the length of the rate in every entry and the sign of the gradient
      const after = yield* model.image
      let signs = 0
      for (const [i, g] of expected.gradient.entries()) {
        if (Math.abs(g) < 1e-5) continue
        signs++
        assert.closeTo((after[i]! - image[i]!) / (-settings.lr * Math.sign(g)), 1, 2e-2)
      }
      assert.isAbove(signs, image.length / 4)
      assert.isBelow(reference(weights, after, pairs).loss, expected.loss)
    })
  )

  it.effect("starts from even odds, learns what separates the sides, and generalises to other prompts", () =>
    Effect.gen(function* () {
      const { decoder } = yield* tinyDecoder()
      const toy = Array.from({ length: 24 }, (_, i): PreferencePair => {
        const body = idsOf(6, i, 3 + (i % 3))
        return { chosen: [...body, 5, 0], rejected: [...body, 9, 0] }
      })
      const model = yield* makeRewardModel(decoder, { ...settings, steps: 25, batchSize: 4, lr: 2e-2, clip: 1 })
      const steps: Array<RewardModelStep> = []
      yield* model.train(toy.slice(0, 16), (step) => {
        steps.push(step)
        return Effect.void
      })
      assert.closeTo(steps[0]!.loss, Math.log(2), 1e-6)
      assert.isBelow(steps.at(-1)!.loss, 0.2)
      assert.deepStrictEqual(
        steps.slice(-5).map((s) => s.accuracy),
        [1, 1, 1, 1, 1]
      )
      const unseen = toy.slice(16)
      const scores = yield* model.score(unseen.flatMap((p) => [p.chosen, p.rejected]))
      assert.isTrue(unseen.every((_, i) => scores[2 * i]! > scores[2 * i + 1]!))
      // a trained image in another model scores the same
      const other = yield* makeRewardModel(decoder, { ...settings, seed: 9 })
      yield* other.load(yield* model.image)
      assert.isBelow(relativeError(yield* other.score(unseen.flatMap((p) => [p.chosen, p.rejected])), scores), 1e-5)
    })
  )

  it.effect("what does not fit or cannot be read is refused, and nothing changes", () =>
    Effect.gen(function* () {
      const { decoder } = yield* tinyDecoder(1, 12)
      const model = yield* makeRewardModel(decoder, { ...settings, capacity: 16 })
      const before = yield* model.image
      const ids = (length: number) => idsOf(1, 0, length)
      const train = (chosen: ReadonlyArray<number>, rejected: ReadonlyArray<number>) =>
        fails(model.train([{ chosen, rejected }], silent), "BadInput")
      assert.include(yield* train(ids(10), ids(10)), "20 tokens and exceeds the pass of 16")
      assert.include(yield* train(ids(13), ids(2)), "13 tokens")
      assert.include(yield* train([1, config.vocabSize], ids(2)), "vocabulary")
      assert.include(yield* train(ids(2), []), "empty")
      yield* fails(model.train([], silent), "BadInput")
      for (const bad of [ids(13), ids(17), [], [-1], [1, 2.5]])
        assert.include(yield* fails(model.score([ids(3), bad]), "BadInput"), "sequence 2")
      assert.deepStrictEqual(yield* model.image, before)
      assert.isTrue(Number.isFinite((yield* model.score([ids(12)]))[0]))
    })
  )

  it.effect("a gradient that is no number is Diverged and changes nothing", () =>
    Effect.gen(function* () {
      const gpu = yield* Gpu
      const { decoder, flat, image: weights } = yield* tinyDecoder()
      const model = yield* makeRewardModel(decoder, settings)
      const image = randomImage()
      yield* model.load(image)
      const at = pairs[0]!.chosen[0]! * C
      yield* gpu.write(flat, weights.with(at, Number.NaN))
      assert.include(yield* fails(model.train(pairs, silent), "Diverged"), "step 1")
      assert.deepStrictEqual(yield* model.image, image)
    })
  )
})
