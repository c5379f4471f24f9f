/** The whole model against the double-precision reference: checkpoints from disk, forward, adapter and full gradients. */
import { assert, describe, it, layer } from "@effect/vitest"
import { Gpu } from "@srcode/gpu"
import { Effect } from "effect"
import { loraFromPairs, makeScorer, openModelWeights, packLora } from "../src/index.ts"
import {
  allModules,
  awkwardShapes,
  plain,
  randomPairs,
  randomSequences,
  referenceConfig,
  referenceLora
} from "./reference/checkpoint.ts"
import { zeroGradients } from "./reference/decoder.ts"
import { asHardware, assertNear, DeviceLayer, deviceGradients, loadFlat, loadShape } from "./reference/device.ts"
import { checkOwnGradients } from "./reference/differences.ts"
import { type LossWeights, lossOf } from "./reference/loss.ts"

const weights: LossWeights = { logProb: -1, entropy: 0.3, temperature: 1.3 }
const nll: LossWeights = { logProb: -1, entropy: 0, temperature: 1 }

describe("the reference", () => {
  it("its gradients equal its own central differences", () => {
    const heads = { heads: 4, kvHeads: 2, headDim: 4 }
    checkOwnGradients({ ...plain, ...heads, hidden: 6, intermediate: 5, vocab: 11, tied: false }, weights)
  })
})

layer(DeviceLayer)("the transformer", (it) => {
  awkwardShapes.forEach((shape, at) => {
    const lengths = [5, 1, 17, 0, 9, 2]

    it.effect(`${shape.name}: log-probabilities, entropies and all gradients`, () =>
      Effect.gen(function* () {
        const { directory, model, parameters } = yield* loadShape(shape, 10 + at)
        const config = referenceConfig(shape)
        const sequences = randomSequences(shape.vocab, lengths, 20 + at)
        const rank = at % 2 === 0 ? 3 : 8
        const alpha = 2 * rank - 1
        const pairs = randomPairs(shape, rank, 30 + at)
        const lora = yield* loraFromPairs(model.config, { rank, alpha }, pairs)
        const reference = referenceLora(rank, alpha / rank, pairs)

        const base = lossOf(config, parameters, null, sequences, nll)
        const scorer = yield* makeScorer(model.decoder, { capacity: 64, rank })
        const scores = yield* scorer.score(null, sequences)
        const flatScores = (key: "logProbs" | "entropy") => scores.flatMap((s) => [...s[key]])
        assertNear("log-probabilities", flatScores("logProbs"), base.logProbs)
        assertNear("entropies", flatScores("entropy"), base.entropy)

        const intoLora = zeroGradients(parameters, reference)
        const withLora = lossOf(config, parameters, reference, sequences, weights, intoLora)
        const adapted = yield* deviceGradients(model.decoder, lora, sequences, weights, false)
        assertNear("log-probabilities with an adapter", adapted.logProbs, withLora.logProbs)
        assertNear("entropies with an adapter", adapted.entropy, withLora.entropy)
        for (let i = 0; i < shape.layers; i++) {
          for (const module of allModules) {
            const key = `layers.${i}.${module}` as const
            const [actual, expected] = [adapted.lora?.get(key), intoLora.lora.get(key)!]
            assertNear(`${key} dA`, actual!.a, expected.a)
            assertNear(`${key} dB`, actual!.b, expected.b)
          }
        }
        // exactly the entries that belong to a pair carry gradient
        const inPairs = packLora(model.config, rank, adapted.lora!)
        assert.deepStrictEqual(inPairs, adapted.loraImage!)

        const intoAll = zeroGradients(parameters, null)
        const all = lossOf(config, parameters, null, sequences, weights, intoAll)
        const { decoder } = yield* loadFlat(directory)
        const full = yield* deviceGradients(decoder, null, sequences, weights, true)
        assertNear("log-probabilities of flat weights", full.logProbs, all.logProbs)
        assert.deepStrictEqual([...full.parameters.keys()].sort(), [...intoAll.parameters.keys()].sort())
        for (const [name, expected] of intoAll.parameters) assertNear(`d ${name}`, full.parameters.get(name)!, expected)
      })
    )
  })

  it.effect("the kernels chosen for hardware give the same gradients", () =>
    Effect.gen(function* () {
      for (const shape of [awkwardShapes[0]!, awkwardShapes[2]!]) {
        const { directory, parameters } = yield* loadShape(shape, 60)
        const { config, decoder } = yield* loadFlat(directory)
        const pairs = randomPairs(shape, 5, 61)
        const lora = yield* loraFromPairs(config, { rank: 5, alpha: 3 }, pairs)
        const reference = referenceLora(5, 3 / 5, pairs)
        const sequences = randomSequences(shape.vocab, [11, 4], 62)
        const into = zeroGradients(parameters, reference)
        const expected = lossOf(referenceConfig(shape), parameters, reference, sequences, weights, into)
        const device = yield* asHardware(deviceGradients(decoder, lora, sequences, weights, true))
        assertNear("log-probabilities", device.logProbs, expected.logProbs)
        assertNear("entropies", device.entropy, expected.entropy)
        for (const [name, gradient] of into.parameters) assertNear(`d ${name}`, device.parameters.get(name)!, gradient)
        for (const [key, pair] of device.lora!) {
          assertNear(`${key} dA`, pair.a, into.lora.get(key)!.a)
          assertNear(`${key} dB`, pair.b, into.lora.get(key)!.b)
        }
      }
    })
  )

  for (const kind of ["software", "hardware"] as const) {
    it.effect(`${kind} kernels: several hundred rows, where sums over rows go block by block`, () =>
      Effect.gen(function* () {
        const shape = { ...plain, layers: 1 }
        const { directory, parameters } = yield* loadShape(shape, 70)
        const { config, decoder } = yield* loadFlat(directory)
        const pairs = randomPairs(shape, 8, 71)
        const lora = yield* loraFromPairs(config, { rank: 8, alpha: 8 }, pairs)
        const reference = referenceLora(8, 1, pairs)
        const sequences = randomSequences(shape.vocab, [90, 1, 130, 70], 72)
        const into = zeroGradients(parameters, reference)
        const expected = lossOf(referenceConfig(shape), parameters, reference, sequences, weights, into)
        const run = deviceGradients(decoder, lora, sequences, weights, true)
        const device = yield* kind === "software" ? run : asHardware(run)
        assertNear("log-probabilities", device.logProbs, expected.logProbs)
        for (const [name, gradient] of into.parameters) assertNear(`d ${name}`, device.parameters.get(name)!, gradient)
        for (const [key, pair] of device.lora!) {
          assertNear(`${key} dA`, pair.a, into.lora.get(key)!.a)
          assertNear(`${key} dB`, pair.b, into.lora.get(key)!.b)
        }
      })
    )
  }

  it.effect("gradients of adapter and weights together equal the reference's", () =>
    Effect.gen(function* () {
      const { directory, parameters } = yield* loadShape(plain, 40)
      const { config, decoder } = yield* loadFlat(directory)
      const pairs = randomPairs(plain, 4, 41)
      const lora = yield* loraFromPairs(config, { rank: 4, alpha: 4 }, pairs)
      const sequences = randomSequences(plain.vocab, [8, 3], 42)
      const reference = referenceLora(4, 1, pairs)
      const into = zeroGradients(parameters, reference)
      lossOf(referenceConfig(plain), parameters, reference, sequences, weights, into)
      const device = yield* deviceGradients(decoder, lora, sequences, weights, true)
      for (const [name, expected] of into.parameters) assertNear(`d ${name}`, device.parameters.get(name)!, expected)
      for (const [key, pair] of device.lora!) {
        assertNear(`${key} dA`, pair.a, into.lora.get(key)!.a)
        assertNear(`${key} dB`, pair.b, into.lora.get(key)!.b)
      }
    })
  )

  it.effect("finite differences of the device's own loss along random directions", () =>
    Effect.gen(function* () {
      const gpu = yield* Gpu
      const { directory } = yield* loadShape(plain, 50)
      const { config, decoder, flat, image } = yield* loadFlat(directory)
      const sequences = randomSequences(plain.vocab, [9, 6, 12], 51)
      const { parameters } = yield* deviceGradients(decoder, null, sequences, nll, true)
      const file = yield* openModelWeights(directory)
      const scorer = yield* makeScorer(decoder, { capacity: 64, rank: 0 })
      const loss = Effect.gen(function* () {
        const scores = yield* scorer.score(null, sequences)
        return -scores.reduce((sum, s) => sum + s.logProbs.reduce((a, b) => a + b, 0), 0)
      })
      // along g/‖g‖ of one tensor the slope is ‖g‖: a sum of many entries, well above the rounding of f32
      for (const name of [
        "model.embed_tokens.weight",
        "model.layers.0.self_attn.q_proj.bias",
        "model.layers.0.self_attn.k_proj.weight",
        "model.layers.0.input_layernorm.weight",
        "model.layers.1.mlp.down_proj.weight",
        "model.norm.weight"
      ]) {
        const gradient = parameters.get(name)!
        const size = Math.hypot(...gradient)
        const original = yield* file.read(name)
        const at = image.findIndex((_, i) => original.every((value, j) => j > 8 || image[i + j] === value))
        const moved = (by: number) => {
          const copy = image.slice()
          gradient.forEach((g, j) => {
            copy[at + j] = original[j]! + (by * g) / size
          })
          return gpu.write(flat, copy).pipe(Effect.andThen(loss))
        }
        const step = 2e-2
        const difference = ((yield* moved(step)) - (yield* moved(-step))) / (2 * step)
        assert.isAtMost(Math.abs(difference - size) / size, 5e-3, name)
      }
      assert.strictEqual(config.numLayers, plain.layers)
    })
  )
})
