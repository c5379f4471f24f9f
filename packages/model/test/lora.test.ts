/** Adapters on the device: identity, merge, combination, files, and the grouped layout's zeros. */
import { assert, layer } from "@effect/vitest"
import { Gpu } from "@srcode/gpu"
import { Effect } from "effect"
import {
  type Adapter,
  allocLora,
  combineAdapters,
  initialLora,
  type Lora,
  linearModules,
  loadAdapter,
  loadModel,
  loraFromPairs,
  loraLength,
  type Model,
  makeScorer,
  mergeLora,
  packLora,
  readAdapter,
  type Scores,
  unpackLora,
  uploadLora,
  writeAdapter
} from "../src/index.ts"
import {
  awkwardShapes,
  plain,
  randomPairs,
  randomSequences,
  referenceConfig,
  referenceLora
} from "./reference/checkpoint.ts"
import { assertNear, DeviceLayer, deviceGradients, loadShape } from "./reference/device.ts"
import { lossOf } from "./reference/loss.ts"
import { seeded, temporaryFolder } from "./support.ts"

const nll = { logProb: -1, entropy: 0, temperature: 1 }
const shapes = [plain, awkwardShapes[0]!, awkwardShapes[2]!]

const flatten = (scores: ReadonlyArray<Scores>): Array<number> => scores.flatMap((s) => [...s.logProbs, ...s.entropy])

const score = Effect.fnUntraced(function* (
  model: Model,
  lora: Lora | null,
  sequences: ReturnType<typeof randomSequences>
) {
  const scorer = yield* makeScorer(model.decoder, { capacity: 64, rank: lora?.rank ?? 0 })
  return flatten(yield* scorer.score(lora, sequences))
}, Effect.scoped)

const adapterOf = (
  rank: number,
  alpha: number,
  tensors: Adapter["tensors"],
  targetModules: Adapter["targetModules"] = linearModules
): Adapter => ({ rank, alpha, useRslora: false, scale: alpha / rank, targetModules, baseModel: null, tensors })

layer(DeviceLayer)("LoRA", (it) => {
  it.effect("an adapter of zeros and a fresh one (B = 0) give the base's bits", () =>
    Effect.gen(function* () {
      const gpu = yield* Gpu
      for (const shape of shapes) {
        const { model } = yield* loadShape(shape, 1)
        const sequences = randomSequences(shape.vocab, [9, 14], 2)
        const base = yield* score(model, null, sequences)
        const lora = yield* allocLora(model.config, { rank: 4, alpha: 8 })
        assert.deepStrictEqual(yield* score(model, lora, sequences), base)
        yield* gpu.write(lora.params.flat, initialLora(model.config, 4, seeded(3)))
        assert.deepStrictEqual(yield* score(model, lora, sequences), base)
      }
    })
  )

  it.effect("a fresh adapter's A is uniform within ±1/√in and its B zero", () =>
    Effect.gen(function* () {
      const { model } = yield* loadShape(plain, 1)
      const pairs = unpackLora(model.config, 4, initialLora(model.config, 4, seeded(5)))
      assert.strictEqual(pairs.size, 7 * plain.layers)
      for (const [key, { a, b }] of pairs) {
        const bound = 1 / Math.sqrt(a.length / 4)
        assert.isTrue(
          a.every((x) => Math.abs(x) <= bound),
          key
        )
        assert.isAbove(Math.max(...a), 0.8 * bound)
        assert.isBelow(Math.min(...a), -0.8 * bound)
        assert.isTrue(b.every((x) => x === 0))
      }
    })
  )

  it.effect("merging equals applying", () =>
    Effect.gen(function* () {
      for (const shape of shapes) {
        const { directory, model, parameters } = yield* loadShape(shape, 4)
        const pairs = randomPairs(shape, 5, 5)
        const lora = yield* loraFromPairs(model.config, { rank: 5, alpha: 7 }, pairs)
        const sequences = randomSequences(shape.vocab, [12, 5], 6)
        const applied = yield* score(model, lora, sequences)
        const merged = yield* loadModel(directory)
        yield* mergeLora(merged.decoder, lora)
        const after = yield* score(merged, null, sequences)
        assertNear(shape.name, after, applied, 1e-5)
        const base = yield* score(model, null, sequences)
        assert.isAbove(Math.max(...base.map((x, i) => Math.abs(x - applied[i]!))), 0.1, "the adapter matters")
        const reference = referenceLora(5, 7 / 5, pairs)
        const expected = lossOf(referenceConfig(shape), parameters, reference, sequences, nll)
        const scorer = yield* makeScorer(merged.decoder, { capacity: 64, rank: 0 })
        const logProbs = (yield* scorer.score(null, sequences)).flatMap((s) => [...s.logProbs])
        assertNear(`${shape.name} against the reference`, logProbs, expected.logProbs)
      }
    })
  )

  it.effect("combining equals the second adapter on the merge of the first, also for different targets and ranks", () =>
    Effect.gen(function* () {
      const shape = awkwardShapes[2]!
      const { directory, model } = yield* loadShape(shape, 7)
      const sequences = randomSequences(shape.vocab, [12, 5], 8)
      const targets = [linearModules, ["q_proj", "down_proj"], ["k_proj", "q_proj", "up_proj"]] as const
      for (const [x, y] of [
        [0, 0],
        [1, 2],
        [0, 1]
      ] as const) {
        const first = adapterOf(3, 4, randomPairs(shape, 3, 9, targets[x]), targets[x])
        const second = adapterOf(5, 2, randomPairs(shape, 5, 10, targets[y]), targets[y])
        const merged = yield* loadModel(directory)
        yield* mergeLora(merged.decoder, yield* uploadLora(model.config, first))
        const chained = yield* score(merged, yield* uploadLora(model.config, second), sequences)
        const both = combineAdapters(first, second)
        assert.strictEqual(both.rank, 8)
        const combined = adapterOf(both.rank, both.alpha, both.tensors, both.targetModules)
        assertNear("combined", yield* score(model, yield* uploadLora(model.config, combined), sequences), chained, 1e-5)
        // what is combined can be written and read as any adapter
        const folder = yield* temporaryFolder
        yield* writeAdapter(folder, model.config, both)
        assert.strictEqual((yield* readAdapter(folder, model.config)).scale, 1)
      }
    })
  )

  it.effect("pairs survive packing bit by bit", () =>
    Effect.gen(function* () {
      for (const shape of awkwardShapes) {
        const { model } = yield* loadShape(shape, 11)
        for (const rank of [1, 3, 8]) {
          const pairs = randomPairs(shape, rank, 12)
          const flat = packLora(model.config, rank, pairs)
          assert.strictEqual(flat.length, loraLength(model.config, rank))
          assert.deepStrictEqual(unpackLora(model.config, rank, flat), pairs)
          const values = [...pairs.values()].reduce((sum, p) => sum + p.a.length + p.b.length, 0)
          assert.strictEqual(flat.filter((x) => x !== 0).length, values)
        }
      }
    })
  )

  it.effect("a written PEFT folder gives the same bits when loaded, with every subset of targets", () =>
    Effect.gen(function* () {
      const shape = awkwardShapes[0]!
      const { model, parameters } = yield* loadShape(shape, 13)
      const sequences = randomSequences(shape.vocab, [12, 5], 14)
      for (const targetModules of [
        linearModules,
        ["q_proj", "v_proj"],
        ["down_proj"],
        ["gate_proj", "k_proj"]
      ] as const) {
        for (const useRslora of [false, true]) {
          const folder = yield* temporaryFolder
          const tensors = randomPairs(shape, 4, 15, targetModules)
          yield* writeAdapter(folder, model.config, { rank: 4, alpha: 6, useRslora, targetModules, tensors })
          const lora = yield* loadAdapter(model, folder)
          const scale = useRslora ? 6 / Math.sqrt(4) : 6 / 4
          assert.strictEqual(lora.scale, scale)
          const actual = yield* score(model, lora, sequences)
          const direct = yield* loraFromPairs(model.config, { rank: 4, alpha: 6, useRslora }, tensors)
          assert.strictEqual(direct.scale, scale)
          assert.deepStrictEqual(actual, yield* score(model, direct, sequences))
          const expected = lossOf(referenceConfig(shape), parameters, referenceLora(4, scale, tensors), sequences, nll)
          const scorer = yield* makeScorer(model.decoder, { capacity: 64, rank: 4 })
          const logProbs = (yield* scorer.score(lora, sequences)).flatMap((s) => [...s.logProbs])
          assertNear(targetModules.join(), logProbs, expected.logProbs)
        }
      }
    })
  )

  it.effect("modules outside the targets get no gradient, and no entry off the diagonal does", () =>
    Effect.gen(function* () {
      const { model } = yield* loadShape(plain, 16)
      const sequences = randomSequences(plain.vocab, [12, 5], 17)
      const targets = ["k_proj", "up_proj"]
      const lora = yield* loraFromPairs(model.config, { rank: 4, alpha: 4 }, randomPairs(plain, 4, 18, targets))
      const { lora: gradients, loraImage } = yield* deviceGradients(model.decoder, lora, sequences, nll, false)
      for (const [key, { a, b }] of gradients!) {
        const target = targets.some((module) => key.endsWith(module))
        assert.strictEqual(
          a.some((x) => x !== 0),
          target,
          key
        )
        assert.strictEqual(
          b.some((x) => x !== 0),
          target,
          key
        )
      }
      assert.deepStrictEqual(packLora(model.config, 4, gradients!), loraImage!)
    })
  )

  it.effect("a workspace made for a smaller rank is refused by name", () =>
    Effect.gen(function* () {
      const { model } = yield* loadShape(plain, 19)
      const lora = yield* loraFromPairs(model.config, { rank: 8, alpha: 8 }, randomPairs(plain, 8, 20))
      const scorer = yield* makeScorer(model.decoder, { capacity: 16, rank: 2 })
      const error = yield* Effect.flip(scorer.score(lora, randomSequences(plain.vocab, [16], 21)))
      assert.strictEqual(error._tag, "GpuError")
      assert.include(error.message, "lora")
    })
  )
})
