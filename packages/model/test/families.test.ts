/**
 * Llama and Qwen3 against the double-precision reference, from folders on disk: log-probabilities, entropies, gradients of
 * adapters and greedy tokens under scaled positions and normed heads, with the kernels of either kind of device.
 */
import { assert, describe, it, layer } from "@effect/vitest"
import { Effect } from "effect"
import { type Decoder, type Lora, loraFromPairs, makeGenerator, makeScorer } from "../src/index.ts"
import {
  allModules,
  familyShapes,
  plain,
  randomPairs,
  randomSequences,
  randomTensors,
  referenceConfig,
  referenceLora,
  type Shape
} from "./reference/checkpoint.ts"
import { forward, toF64, zeroGradients } from "./reference/decoder.ts"
import { asHardware, assertNear, DeviceLayer, deviceGradients, loadFlat, loadShape } from "./reference/device.ts"
import { checkOwnGradients } from "./reference/differences.ts"
import { greedy, type LossWeights, lossOf } from "./reference/loss.ts"

const weights: LossWeights = { logProb: -1, entropy: 0.3, temperature: 1.3 }
const nll: LossWeights = { logProb: -1, entropy: 0, temperature: 1 }

describe("the reference", () => {
  for (const shape of [familyShapes[1]!, familyShapes[5]!, familyShapes[6]!]) {
    it(`${shape.name}: its gradients equal its own central differences`, () => {
      const heads = { heads: 4, kvHeads: 2, headDim: 4, layers: 2 }
      checkOwnGradients({ ...shape, ...heads, hidden: 6, intermediate: 5, vocab: 11 }, weights)
    })
  }

  it("what makes a family different changes its logits", () => {
    const ids = randomSequences(101, [12], 6)[0]!.ids
    const qwen3: Shape = { ...plain, bias: false, family: "qwen3" }
    const parameters = toF64(new Map([...randomTensors(qwen3, 7)].map(([name, { data }]) => [name, data])))
    const logits = (shape: Shape) => forward(referenceConfig(shape), parameters, null, ids).logits
    const base = logits(qwen3)
    const largest = (other: Float64Array) => other.reduce((max, x, i) => Math.max(max, Math.abs(x - base[i]!)), 0)
    assert.isAbove(largest(logits({ ...qwen3, family: "llama" })), 0.1)
    for (const { scaling } of familyShapes.filter((s) => s.scaling)) {
      assert.isAbove(largest(logits({ ...qwen3, scaling: scaling! })), 0.1)
    }
  })
})

const greedyIds = Effect.fnUntraced(function* (
  decoder: Decoder,
  lora: Lora | null,
  prompts: ReadonlyArray<ReadonlyArray<number>>,
  count: number
) {
  const generator = yield* makeGenerator(decoder, { slots: 4, capacity: 48, prefill: 32, rank: lora?.rank ?? 0 })
  const requests = prompts.map((ids, stream) => ({ ids, stream }))
  const out = yield* generator.generate(lora, requests, { temperature: 0, topP: 1, maxTokens: count, seed: 0 })
  return out.map(({ ids }) => [...ids])
}, Effect.scoped)

layer(DeviceLayer)("families", (it) => {
  familyShapes.forEach((shape, at) => {
    for (const kind of ["software", "hardware"] as const) {
      const on = <A, E, R>(effect: Effect.Effect<A, E, R>) => (kind === "software" ? effect : asHardware(effect))

      it.effect(`${shape.name}, ${kind} kernels: scores, adapter gradients, greedy tokens`, () =>
        Effect.gen(function* () {
          const { directory, model, parameters } = yield* loadShape(shape, 10 + at)
          const config = referenceConfig(shape)
          const sequences = randomSequences(shape.vocab, [5, 1, 40, 0, 9, 2], 20 + at)
          const rank = at % 2 === 0 ? 3 : 8
          const alpha = 2 * rank - 1
          const pairs = randomPairs(shape, rank, 30 + at)
          const lora = yield* loraFromPairs(model.config, { rank, alpha }, pairs)
          const reference = referenceLora(rank, alpha / rank, pairs)

          const base = lossOf(config, parameters, null, sequences, nll)
          const scorer = yield* on(makeScorer(model.decoder, { capacity: 64, rank }))
          const scores = yield* on(scorer.score(null, sequences))
          const all = (key: "logProbs" | "entropy") => scores.flatMap((s) => [...s[key]])
          assertNear("log-probabilities", all("logProbs"), base.logProbs)
          assertNear("entropies", all("entropy"), base.entropy)

          const into = zeroGradients(parameters, reference)
          const expected = lossOf(config, parameters, reference, sequences, weights, into)
          const device = yield* on(deviceGradients(model.decoder, lora, sequences, weights, false))
          assertNear("log-probabilities with an adapter", device.logProbs, expected.logProbs)
          assertNear("entropies with an adapter", device.entropy, expected.entropy)
          for (let i = 0; i < shape.layers; i++) {
            for (const module of allModules) {
              const key = `layers.${i}.${module}` as const
              assertNear(`${key} dA`, device.lora!.get(key)!.a, into.lora.get(key)!.a)
              assertNear(`${key} dB`, device.lora!.get(key)!.b, into.lora.get(key)!.b)
            }
          }

          const prompts = randomSequences(shape.vocab, [5, 1, 13], 40 + at).map(({ ids }) => ids)
          for (const [adapter, by] of [
            [null, null],
            [lora, reference]
          ] as const) {
            const ids = yield* on(greedyIds(model.decoder, adapter, prompts, 10))
            prompts.forEach((prompt, i) => {
              const wanted = greedy(config, parameters, by, prompt, 10)
              assert.isAbove(wanted.margin, 1e-4, "the test's seed leads to a tie; take another")
              assert.deepStrictEqual(ids[i], wanted.ids)
            })
          }

          if (kind === "software" && shape.family !== "qwen3") {
            const intoAll = zeroGradients(parameters, null)
            lossOf(config, parameters, null, sequences, weights, intoAll)
            const { decoder } = yield* loadFlat(directory)
            const full = yield* deviceGradients(decoder, null, sequences, weights, true)
            assert.deepStrictEqual([...full.parameters.keys()].sort(), [...intoAll.parameters.keys()].sort())
            for (const [name, gradient] of intoAll.parameters)
              assertNear(`d ${name}`, full.parameters.get(name)!, gradient)
          }
        })
      )
    }
  })

  it.effect("full-parameter gradients of normed heads are refused in words", () =>
    Effect.gen(function* () {
      const shape = familyShapes[4]!
      const { directory } = yield* loadShape(shape, 50)
      const { decoder } = yield* loadFlat(directory)
      const sequences = randomSequences(shape.vocab, [5], 51)
      const error = yield* Effect.flip(deviceGradients(decoder, null, sequences, weights, true))
      assert.strictEqual(error._tag, "GpuError")
      assert.include(error.message, "qwen3 cannot be trained in all parameters")
    })
  )
})
