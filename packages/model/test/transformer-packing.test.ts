/** A packed sequence must not know its neighbours: forward, gradients, and the edges (empty, one token, no loss). */
import { assert, layer } from "@effect/vitest"
import { Effect } from "effect"
import { loraFromPairs, makeScorer, packSequences } from "../src/index.ts"
import { awkwardShapes, plain, randomPairs, randomSequences } from "./reference/checkpoint.ts"
import { assertNear, DeviceLayer, deviceGradients, loadFlat, loadShape } from "./reference/device.ts"

const weights = { logProb: -1, entropy: 0.2, temperature: 0.9 }

layer(DeviceLayer)("packing", (it) => {
  it.effect("a sequence alone has the bits it has between neighbours, and a changed neighbour changes nothing", () =>
    Effect.gen(function* () {
      for (const shape of [plain, awkwardShapes[0]!, awkwardShapes[4]!]) {
        const { model } = yield* loadShape(shape, 1)
        const lora = yield* loraFromPairs(model.config, { rank: 4, alpha: 4 }, randomPairs(shape, 4, 2))
        const scorer = yield* makeScorer(model.decoder, { capacity: 96, rank: 4 })
        const [before, own, after, other] = randomSequences(shape.vocab, [13, 21, 6, 19], 3)
        const alone = yield* scorer.score(lora, [own!])
        assert.isAbove(alone[0]!.logProbs.length, 10)
        const packed = yield* scorer.score(lora, [before!, own!, after!])
        const changed = yield* scorer.score(lora, [other!, own!, after!])
        assert.deepStrictEqual(packed[1], alone[0])
        assert.deepStrictEqual(changed[1], alone[0])
        assert.deepStrictEqual(changed[2], packed[2])
        assert.notDeepEqual(changed[0], packed[0])
      }
    })
  )

  it.effect("the past does not know the future", () =>
    Effect.gen(function* () {
      const { model } = yield* loadShape(plain, 4)
      const scorer = yield* makeScorer(model.decoder, { capacity: 64, rank: 0 })
      const [one] = randomSequences(plain.vocab, [20], 5)
      const all = { ids: one!.ids, loss: () => true }
      const cut = { ids: one!.ids.map((id, t) => (t < 12 ? id : (id + 7) % plain.vocab)), loss: () => true }
      const [whole, changed] = yield* scorer.score(null, [all, cut])
      assert.deepStrictEqual(changed!.logProbs.slice(0, 11), whole!.logProbs.slice(0, 11))
      assert.deepStrictEqual(changed!.entropy.slice(0, 12), whole!.entropy.slice(0, 12))
      for (let t = 12; t < 19; t++) assert.notStrictEqual(changed!.logProbs[t], whole!.logProbs[t])
    })
  )

  it.effect("gradients of a pack are the sum of the gradients of its sequences, in any order", () =>
    Effect.gen(function* () {
      const shape = awkwardShapes[2]!
      const { directory } = yield* loadShape(shape, 6)
      const { config, decoder } = yield* loadFlat(directory)
      const lora = yield* loraFromPairs(config, { rank: 3, alpha: 6 }, randomPairs(shape, 3, 7))
      const sequences = randomSequences(shape.vocab, [7, 1, 0, 16, 4], 8)
      const run = (some: typeof sequences) => deviceGradients(decoder, lora, some, weights, true)
      const [together, reversed] = [yield* run(sequences), yield* run(sequences.toReversed())]
      const sum = new Map<string, Float64Array>()
      const add = (key: string, data: Float32Array) =>
        sum.set(
          key,
          Float64Array.from(data, (x, i) => x + (sum.get(key)?.[i] ?? 0))
        )
      for (const sequence of sequences) {
        if (sequence.ids.length < 2) continue
        const own = yield* run([sequence])
        add("lora", own.loraImage!)
        for (const [name, data] of own.parameters) add(name, data)
      }
      for (const result of [together, reversed]) {
        assertNear("lora", result.loraImage!, sum.get("lora")!, 1e-5)
        for (const [name, data] of result.parameters) assertNear(name, data, sum.get(name)!, 1e-5)
      }
    })
  )

  it.effect("sequences without loss add nothing to the gradient", () =>
    Effect.gen(function* () {
      const { model } = yield* loadShape(plain, 9)
      const lora = yield* loraFromPairs(model.config, { rank: 4, alpha: 4 }, randomPairs(plain, 4, 10))
      const [some, silent] = randomSequences(plain.vocab, [9, 11], 11)
      const run = (sequences: Parameters<typeof deviceGradients>[2]) =>
        deviceGradients(model.decoder, lora, sequences, weights, false)
      const alone = yield* run([some!])
      const beside = yield* run([{ ids: silent!.ids }, some!, { ids: silent!.ids, loss: () => false }])
      assertNear("gradient", beside.loraImage!, alone.loraImage!, 1e-6)
      assert.deepStrictEqual(beside.logProbs, alone.logProbs)
    })
  )

  it("indices of a pack: empty, single and silent sequences", () => {
    const packed = packSequences([
      { ids: [] },
      { ids: [4, 5, 6], loss: (t) => t !== 1 },
      { ids: [7], loss: () => true },
      { ids: [] },
      { ids: [8, 9], loss: () => true },
      { ids: [1, 2] }
    ])
    assert.strictEqual(packed.rows, 8)
    assert.deepStrictEqual([...packed.ids], [4, 5, 6, 7, 8, 9, 1, 2])
    assert.deepStrictEqual([...packed.position], [0, 1, 2, 0, 0, 1, 0, 1])
    assert.deepStrictEqual([...packed.kvStart], [0, 0, 0, 3, 4, 4, 6, 6])
    assert.deepStrictEqual([...packed.kvEnd], [1, 2, 3, 4, 5, 6, 7, 8])
    assert.deepStrictEqual([...packed.qEnd], [3, 3, 3, 4, 6, 6, 8, 8])
    assert.deepStrictEqual([...packed.lossRow], [1, 4])
    assert.deepStrictEqual([...packed.target], [6, 9])
    assert.deepStrictEqual([...packed.lossFirst], [0, 0, 1, 1, 1, 2, 2])
    assert.strictEqual(packSequences([]).rows, 0)
  })
})
