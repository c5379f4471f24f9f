/** Generation: the cache against full recomputation, log-probabilities against the scorer, independence, ends, bad input. */
import { assert, layer } from "@effect/vitest"
import { Gpu } from "@srcode/gpu"
import { Effect } from "effect"
import {
  type Decoder,
  type Generation,
  type GenerationRequest,
  type Lora,
  loadModel,
  loraFromPairs,
  makeGenerator,
  makeScorer,
  type SamplingOptions
} from "../src/index.ts"
import {
  awkwardShapes,
  plain,
  randomPairs,
  referenceConfig,
  referenceLora,
  type Shape
} from "./reference/checkpoint.ts"
import { forward } from "./reference/decoder.ts"
import { asHardware, DeviceLayer, loadShape } from "./reference/device.ts"
import { greedy, scoreRow } from "./reference/loss.ts"
import { below, failsWith, seeded } from "./support.ts"

const greedyOptions: SamplingOptions = { temperature: 0, topP: 1, maxTokens: 12, seed: 0 }
const warm: SamplingOptions = { temperature: 1, topP: 1, maxTokens: 20, seed: 7 }

const prompts = (vocab: number, lengths: ReadonlyArray<number>, seed: number): ReadonlyArray<GenerationRequest> => {
  const next = seeded(seed)
  return lengths.map((length, stream) => ({ ids: Array.from({ length }, () => below(next, vocab)), stream }))
}

const generate = Effect.fnUntraced(function* (
  decoder: Decoder,
  lora: Lora | null,
  requests: ReadonlyArray<GenerationRequest>,
  sampling: SamplingOptions,
  sizes: { readonly slots?: number; readonly capacity?: number; readonly prefill?: number } = {}
) {
  const options = { slots: 8, capacity: 64, prefill: 48, rank: lora?.rank ?? 0, ...sizes }
  const generator = yield* makeGenerator(decoder, options)
  return yield* generator.generate(lora, requests, sampling)
}, Effect.scoped)

const withEnds = (decoder: Decoder, eosTokenIds: ReadonlyArray<number>): Decoder => ({
  ...decoder,
  config: { ...decoder.config, eosTokenIds }
})

/** What a generation without ends becomes when these tokens end it. */
const cutAt = (full: Generation, ends: ReadonlyArray<number>): Generation => {
  const at = full.ids.findIndex((id) => ends.includes(id))
  if (at < 0) return full
  return { ids: full.ids.slice(0, at + 1), logProbs: full.logProbs.slice(0, at + 1), truncated: false }
}

layer(DeviceLayer)("generation", (it) => {
  awkwardShapes.forEach((shape: Shape, at) => {
    it.effect(`${shape.name}: greedy decoding with the cache equals full recomputation in double precision`, () =>
      Effect.gen(function* () {
        const { model, parameters } = yield* loadShape(shape, 100 + at)
        const rank = 4
        const pairs = randomPairs(shape, rank, 110 + at)
        const lora = yield* loraFromPairs(model.config, { rank, alpha: 6 }, pairs)
        const requests = prompts(shape.vocab, [5, 1, 13], 120 + at)
        for (const adapter of [null, lora]) {
          const out = yield* generate(model.decoder, adapter, requests, greedyOptions)
          const reference = adapter === null ? null : referenceLora(rank, 6 / rank, pairs)
          requests.forEach((request, i) => {
            const expected = greedy(referenceConfig(shape), parameters, reference, request.ids, 12)
            assert.isAbove(expected.margin, 1e-4, "the test's seed leads to a tie; take another")
            assert.deepStrictEqual(out[i]!.ids, expected.ids)
            assert.isTrue(out[i]!.truncated)
          })
        }
      })
    )
  })

  it.effect("log-probabilities equal the scorer's at every temperature", () =>
    Effect.gen(function* () {
      for (const shape of [plain, awkwardShapes[1]!]) {
        const { model } = yield* loadShape(shape, 1)
        const lora = yield* loraFromPairs(model.config, { rank: 4, alpha: 4 }, randomPairs(shape, 4, 2))
        const requests = prompts(shape.vocab, [5, 1, 9, 20, 2], 3)
        const scorer = yield* makeScorer(model.decoder, { capacity: 128, rank: 4 })
        for (const [temperature, topP] of [
          [1, 1],
          [0.8, 1],
          [0.8, 0.9],
          [0, 1]
        ] as const) {
          const out = yield* generate(model.decoder, lora, requests, { ...warm, temperature, topP })
          const scores = yield* scorer.score(
            lora,
            out.map(({ ids }, i) => {
              const prompt = requests[i]!.ids
              return { ids: [...prompt, ...ids], loss: (t: number) => t >= prompt.length }
            }),
            temperature === 0 ? 1 : temperature
          )
          out.forEach(({ ids, logProbs }, i) => {
            assert.strictEqual(ids.length, 20)
            logProbs.forEach((x, t) => {
              assert.closeTo(x, scores[i]!.logProbs[t]!, 1e-4)
            })
          })
        }
      }
    })
  )

  it.effect("tokens do not depend on neighbours, order, slots or the size of a prefill pass", () =>
    Effect.gen(function* () {
      const { model } = yield* loadShape(plain, 4)
      const requests = prompts(plain.vocab, [5, 1, 9, 16, 2, 7, 3, 11, 4, 6], 5)
      const run = (some: ReadonlyArray<GenerationRequest>, sizes = {}) =>
        generate(model.decoder, null, some, warm, sizes)
      const together = yield* run(requests, { slots: 16, prefill: 64 })
      for (const i of [0, 3, 9]) assert.deepStrictEqual(yield* run([requests[i]!]), [together[i]!])
      assert.deepStrictEqual(yield* run(requests, { slots: 1 }), together)
      assert.deepStrictEqual(yield* run(requests, { slots: 3, prefill: 16 }), together)
      assert.deepStrictEqual(yield* run(requests, { slots: 4, capacity: 40 }), together)
      assert.deepStrictEqual(yield* run(requests.toReversed()), together.toReversed())
    })
  )

  it.effect("the seed decides; streams and seeds differ; one generator can be used again", () =>
    Effect.gen(function* () {
      const { model } = yield* loadShape(plain, 6)
      const ids = [3, 1, 4, 1, 5]
      const requests = Array.from({ length: 12 }, (_, stream) => ({ ids, stream }))
      const generator = yield* makeGenerator(model.decoder, { slots: 5, capacity: 32, prefill: 16, rank: 0 })
      const first = yield* generator.generate(null, requests, warm)
      assert.deepStrictEqual(yield* generator.generate(null, requests, warm), first)
      assert.strictEqual(new Set(first.map((g) => g.ids.join())).size, 12)
      const other = yield* generator.generate(null, requests, { ...warm, seed: 8 })
      other.forEach((g, i) => {
        assert.notDeepEqual(g.ids, first[i]!.ids)
      })
      // the same token must not come out at every position just because the draw is the same
      for (const g of first) assert.isAbove(new Set(g.ids).size, 3)
    })
  )

  for (const kind of ["software", "hardware"] as const) {
    it.effect(`${kind} kernels: sampled frequencies follow the softmax, and the nucleus cuts it`, () =>
      Effect.gen(function* () {
        const shape = awkwardShapes[4]!
        const { model, parameters } = yield* loadShape(shape, 8)
        const ids = [7, 30, 2]
        const [draws, temperature] = [kind === "software" ? 3000 : 750, 0.8]
        const { logits } = forward(referenceConfig(shape), parameters, null, ids)
        const row = logits.subarray(2 * shape.vocab)
        const p = Array.from(row, (_, token) => Math.exp(scoreRow(row, token, temperature).logProb))
        const requests = Array.from({ length: draws }, (_, stream) => ({ ids, stream }))
        const counts = Effect.fnUntraced(function* (topP: number) {
          const sizes = { slots: 250, prefill: 750, capacity: 8 }
          const sampling = { temperature, topP, maxTokens: 1, seed: 9 }
          const run = generate(model.decoder, null, requests, sampling, sizes)
          const out = yield* kind === "software" ? run : asHardware(run)
          const count = new Float64Array(shape.vocab)
          for (const g of out) count[g.ids[0]!]!++
          return count
        })
        const chiSquare = (count: Float64Array, expected: ReadonlyArray<number>) =>
          count.reduce((sum, n, token) => {
            const e = expected[token]! * draws
            return e === 0 ? sum + (n === 0 ? 0 : 1e9) : sum + (n - e) ** 2 / e
          }, 0)
        // 32 degrees of freedom: mean 32, standard deviation 8
        assert.isBelow(chiSquare(yield* counts(1), p), 32 + 5 * 8)
        const sorted = [...p.keys()].sort((a, b) => p[b]! - p[a]!)
        let mass = 0
        const kept = new Set<number>()
        for (const token of sorted) {
          if (mass >= 0.6) break
          mass += p[token]!
          kept.add(token)
        }
        assert.isBelow(kept.size, shape.vocab / 2)
        const nucleus = p.map((x, token) => (kept.has(token) ? x / mass : 0))
        assert.isBelow(chiSquare(yield* counts(0.6), nucleus), kept.size + 5 * Math.sqrt(2 * kept.size))
      })
    )
  }

  it.effect("the kernels chosen for hardware decode the same tokens", () =>
    Effect.gen(function* () {
      for (const shape of [plain, awkwardShapes[0]!]) {
        const { model, parameters } = yield* loadShape(shape, 19)
        const requests = prompts(shape.vocab, [5, 12], 20)
        const out = yield* asHardware(generate(model.decoder, null, requests, greedyOptions))
        requests.forEach((request, i) => {
          const expected = greedy(referenceConfig(shape), parameters, null, request.ids, 12)
          assert.isAbove(expected.margin, 1e-4, "the test's seed leads to a tie; take another")
          assert.deepStrictEqual(out[i]!.ids, expected.ids)
        })
        const sampling = { ...warm, temperature: 0.8, topP: 0.9 }
        const sampled = yield* asHardware(generate(model.decoder, null, requests, sampling))
        const scorer = yield* makeScorer(model.decoder, { capacity: 128, rank: 0 })
        const sequences = sampled.map(({ ids }, i) => {
          const prompt = requests[i]!.ids
          return { ids: [...prompt, ...ids], loss: (t: number) => t >= prompt.length }
        })
        const scores = yield* scorer.score(null, sequences, 0.8)
        sampled.forEach(({ logProbs }, i) => {
          assert.lengthOf(logProbs, 20)
          logProbs.forEach((x, t) => {
            assert.closeTo(x, scores[i]!.logProbs[t]!, 1e-4)
          })
        })
      }
    })
  )

  it.effect("an end token ends its own sequence only, whichever of several it is", () =>
    Effect.gen(function* () {
      const gpu = yield* Gpu
      const { model } = yield* loadShape(plain, 10)
      const requests = prompts(plain.vocab, [5, 1, 9, 16, 2, 7, 3, 11], 11)
      const sampling = { ...warm, maxTokens: 40 }
      const full = yield* generate(model.decoder, null, requests, sampling)
      assert.isTrue(full.every((g) => g.ids.length === 40 && g.truncated))
      const seen = [...new Set(full.flatMap((g) => g.ids))]
      const unseen = Array.from({ length: plain.vocab }, (_, id) => id).find((id) => !seen.includes(id))
      for (const ends of [[full[0]!.ids[0]!], [full[1]!.ids[13]!], seen.slice(0, 3), seen.slice(5, 25)]) {
        const expected = full.map((g) => cutAt(g, ends))
        assert.isTrue(expected.some((g) => !g.truncated))
        const out = yield* generate(withEnds(model.decoder, ends), null, requests, sampling)
        assert.deepStrictEqual(out, expected)
        const waves = yield* generate(withEnds(model.decoder, ends), null, requests, sampling, { slots: 3 })
        assert.deepStrictEqual(waves, expected)
      }
      // a second end token stops the work as soon as the first one would
      assert.isDefined(unseen, "a token that was never sampled")
      const end = full[0]!.ids[2]!
      const cost = Effect.fnUntraced(function* (ends: ReadonlyArray<number>) {
        const before = yield* gpu.dispatches
        yield* generate(withEnds(model.decoder, ends), null, requests.slice(0, 1), sampling)
        return (yield* gpu.dispatches) - before
      })
      assert.strictEqual(yield* cost([unseen!, end]), yield* cost([end]))
    })
  )

  it.effect("the end token on the last place allowed is an end, not a cut", () =>
    Effect.gen(function* () {
      const { model } = yield* loadShape(plain, 12)
      const requests = prompts(plain.vocab, [5], 13)
      const [full] = yield* generate(model.decoder, null, requests, warm)
      const at = full!.ids.findIndex((id, i) => i > 2 && full!.ids.indexOf(id) === i)
      const decoder = withEnds(model.decoder, [full!.ids[at]!])
      const [exact] = yield* generate(decoder, null, requests, { ...warm, maxTokens: at + 1 })
      assert.strictEqual(exact!.ids.length, at + 1)
      assert.isFalse(exact!.truncated)
      const [short] = yield* generate(decoder, null, requests, { ...warm, maxTokens: at })
      assert.strictEqual(short!.ids.length, at)
      assert.isTrue(short!.truncated)
      const [one] = yield* generate(decoder, null, requests, { ...warm, maxTokens: 1 })
      assert.deepStrictEqual(one, { ids: full!.ids.slice(0, 1), logProbs: full!.logProbs.slice(0, 1), truncated: true })
    })
  )

  it.effect("a prompt that just fits works; waves report their progress; nothing to do is nothing", () =>
    Effect.gen(function* () {
      const { model } = yield* loadShape(plain, 14)
      const [long] = prompts(plain.vocab, [24], 15)
      const roomy = yield* generate(model.decoder, null, [long!], { ...warm, maxTokens: 8 })
      const tight = yield* generate(
        model.decoder,
        null,
        [long!],
        { ...warm, maxTokens: 8 },
        { capacity: 32, prefill: 24 }
      )
      assert.deepStrictEqual(tight, roomy)
      const generator = yield* makeGenerator(model.decoder, { slots: 3, capacity: 32, prefill: 24, rank: 0 })
      const seen: Array<readonly [number, number]> = []
      yield* generator.generate(null, prompts(plain.vocab, [2, 3, 4, 5, 6, 7, 8], 16), warm, (done, total) =>
        Effect.sync(() => {
          seen.push([done, total])
        })
      )
      assert.deepStrictEqual(seen, [
        [3, 7],
        [6, 7],
        [7, 7]
      ])
      assert.deepStrictEqual(yield* generator.generate(null, [], warm), [])
    })
  )

  it.effect("what cannot be generated is a typed error with one line, and the generator goes on", () =>
    Effect.gen(function* () {
      const { model } = yield* loadShape(plain, 17)
      const generator = yield* makeGenerator(model.decoder, { slots: 2, capacity: 32, prefill: 24, rank: 0 })
      const good: GenerationRequest = { ids: [1, 2, 3], stream: 0 }
      const fails = (bad: ReadonlyArray<number>, sampling: Partial<SamplingOptions> = {}) =>
        failsWith(
          Effect.catchTag(
            generator.generate(null, [good, { ids: bad, stream: 1 }], { ...warm, maxTokens: 8, ...sampling }),
            "GpuError",
            Effect.die
          ),
          "Invalid"
        )
      const expected = yield* generator.generate(null, [good], { ...warm, maxTokens: 8 })
      assert.include((yield* fails([])).message, "empty")
      assert.include((yield* fails([1, plain.vocab])).message, `${plain.vocab}`)
      yield* fails([-1])
      yield* fails([1.5])
      yield* fails([Number.NaN])
      assert.include((yield* fails(Array.from({ length: 25 }, () => 1))).message, "25")
      assert.include((yield* fails([1], { maxTokens: 32 })).message, "32")
      for (const maxTokens of [0, -1, 1.5, Number.NaN])
        assert.include((yield* fails([1], { maxTokens })).message, "maxTokens")
      for (const temperature of [-1, Number.NaN, Number.POSITIVE_INFINITY])
        assert.include((yield* fails([1], { temperature })).message, "temperature")
      for (const topP of [0, -0.5, 1.1, Number.NaN]) assert.include((yield* fails([1], { topP })).message, "topP")
      assert.deepStrictEqual(yield* generator.generate(null, [good], { ...warm, maxTokens: 8 }), expected)
    })
  )

  it.effect("positions end where the rotary tables do", () =>
    Effect.gen(function* () {
      const { directory } = yield* loadShape(plain, 18)
      const short = yield* loadModel(directory, { maxTokens: 16 })
      const generator = yield* makeGenerator(short.decoder, { slots: 1, capacity: 64, prefill: 32, rank: 0 })
      const request = { ids: [1, 2, 3, 4, 5, 6, 7, 8], stream: 0 }
      assert.lengthOf(yield* generator.generate(null, [request], { ...warm, maxTokens: 8 }), 1)
      yield* failsWith(
        Effect.catchTag(generator.generate(null, [request], { ...warm, maxTokens: 9 }), "GpuError", Effect.die),
        "Invalid"
      )
    })
  )
})
