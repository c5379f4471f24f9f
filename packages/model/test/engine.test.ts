/** The engine: joining and leaving, shared beginnings, and what a request may ask. */
import { assert, layer } from "@effect/vitest"
import { Gpu, makeOps, pageSize } from "@srcode/gpu"
import { Effect, Stream } from "effect"
import {
  type LoadOptions,
  loadModel,
  loraFromPairs,
  makeEngine,
  makeGenerator,
  makeScorer,
  packLora,
  type SequenceRequest
} from "../src/index.ts"
import { makeEngineDevice } from "../src/internal/engine-device.ts"
import { plain, randomPairs } from "./reference/checkpoint.ts"
import { asHardware, DeviceLayer, loadShape } from "./reference/device.ts"
import { alone, assertIdle, collect, prompt, refusal, request, roomy, warm } from "./reference/engine.ts"
import { below, seeded } from "./support.ts"

layer(DeviceLayer)("engine", (it) => {
  it.effect("sequences of all kinds that join and leave at random times are what they are alone, to the bit", () =>
    Effect.gen(function* () {
      const { model } = yield* loadShape(plain, 40)
      const random = seeded(41)
      const adapters = [
        null,
        yield* loraFromPairs(model.config, { rank: 4, alpha: 6 }, randomPairs(plain, 4, 42)),
        yield* loraFromPairs(model.config, { rank: 2, alpha: 8 }, randomPairs(plain, 2, 43))
      ]
      const [first, second] = [prompt(44, 40), prompt(45, 21)]
      const requests = Array.from({ length: 22 }, (_, stream): SequenceRequest => {
        const start = [[], first, first, second][stream % 4]!
        return {
          ids: [...start, ...prompt(50 + stream, 1 + below(random, 12))],
          stream,
          lora: adapters[below(random, 3)]!,
          sampling: {
            temperature: [0, 0.7, 1, 1.4][below(random, 4)]!,
            topP: [1, 0.9][below(random, 2)]!,
            topK: [0, 0, 12][below(random, 3)]!,
            minP: [0, 0, 0.03][below(random, 3)]!,
            maxTokens: 1 + below(random, 28),
            seed: below(random, 1e6)
          },
          stopIds: below(random, 3) === 0 ? prompt(80 + stream, 2) : []
        }
      })
      const expected = []
      for (const one of requests) expected.push(yield* alone(model.decoder, one))
      assert.isTrue(expected.some((g) => !g.truncated) && expected.some((g) => g.ids.length > 16))
      for (const options of [
        { ...roomy, maxSequences: 5, prefillTokens: 13 },
        { ...roomy, maxSequences: 16, prefillTokens: 64, pages: 18 }
      ]) {
        const engine = yield* makeEngine(model.decoder, options)
        let chunks = 0
        const out = yield* Effect.forEach(
          requests,
          (one, i) =>
            Effect.gen(function* () {
              // Each joins when the others have come some way.
              while (chunks < 2 * (i - 4)) yield* Effect.yieldNow
              return yield* collect(
                { ...engine, sample: (r) => Stream.tap(engine.sample(r), () => Effect.sync(() => void chunks++)) },
                one
              )
            }),
          { concurrency: "unbounded" }
        )
        assert.deepStrictEqual(out, expected)
        assert.deepStrictEqual(yield* engine.generate(requests), expected)
        yield* assertIdle(engine)
      }
    })
  )

  it.effect("packed weights and the kernels chosen for hardware keep rows apart as well", () =>
    Effect.gen(function* () {
      const { directory } = yield* loadShape(plain, 37)
      const same = Effect.fnUntraced(function* (options: LoadOptions) {
        const { decoder } = yield* loadModel(directory, options)
        const requests = Array.from({ length: 6 }, (_, i) =>
          request(prompt(38 + (i % 3), 3 + 9 * i), i, { topP: 0.95 })
        )
        const engine = yield* makeEngine(decoder, { ...roomy, prefillTokens: 17 })
        const out = yield* engine.generate(requests)
        for (const i of [0, 3, 5]) assert.deepStrictEqual(out[i], yield* alone(decoder, requests[i]!))
      }, Effect.scoped)
      yield* same({ dtype: "f16" })
      yield* same({ quantize: "int8" })
      yield* same({ quantize: "int4" })
      yield* asHardware(same({}))
    })
  )

  it.effect("more rows than one pass of logits holds are drawn in several, with the same tokens", () =>
    Effect.gen(function* () {
      const { info } = yield* Gpu
      const { model } = yield* loadShape(plain, 39)
      const rows = 150
      const options = { maxSequences: rows, maxTokens: 16, prefillTokens: rows, rank: 0, pages: rows }
      const run = Effect.fnUntraced(function* (budget: number) {
        const device = yield* makeEngineDevice(model.decoder, makeOps(info), options, budget)
        const index = Array.from({ length: rows }, (_, i) => i)
        for (const i of index) yield* device.admit(i, [i + 1])
        const sampling = { ...warm, topK: 9 }
        const kvRow = index.map((i) => (i + 1) * pageSize)
        const ids = index.map((i) => (7 * i) % plain.vocab)
        const first = yield* device.prefill(
          { lora: null, ids, position: index.map(() => 0), kvRow, slot: index, complete: [] },
          index.map((row) => ({ row, sampling, stream: row }))
        )
        const burst = yield* device.burst(
          null,
          index.map((i) => ({
            slot: i,
            last: first[i]!.ids[0]!,
            sampling,
            stream: i,
            position: [1, 2, 3],
            kvRow: [1, 2, 3].map((t) => kvRow[i]! + t)
          })),
          3
        )
        return { first, burst }
      }, Effect.scoped)
      const inOne = yield* run(1 << 20)
      assert.deepStrictEqual(yield* run(0), inOne)
      assert.lengthOf(inOne.burst, rows)
      assert.isAbove(new Set(inOne.burst.map((d) => d.ids.join())).size, 20)
    })
  )

  it.effect("samples of one prompt share its pages, later calls too, until the prefixes are forgotten", () =>
    Effect.gen(function* () {
      const { model } = yield* loadShape(plain, 46)
      const ids = prompt(47, 40)
      const requests = Array.from({ length: 6 }, (_, stream) => request(ids, stream))
      const expected = []
      for (const one of requests) expected.push(yield* alone(model.decoder, one))
      const engine = yield* makeEngine(model.decoder, roomy)
      const reused = Effect.map(engine.stats, (s) => s.prefixTokensReused)
      assert.deepStrictEqual(yield* engine.generate(requests), expected)
      assert.strictEqual(yield* reused, 5 * 32)
      assert.strictEqual((yield* engine.stats).promptTokens, 6 * 40)
      assert.deepStrictEqual(yield* engine.generate(requests.slice(2, 3)), expected.slice(2, 3))
      assert.strictEqual(yield* reused, 6 * 32)
      // A conversation that goes on finds the prompt and the response: 40 + 19 tokens are written, three pages of them full.
      const next = request([...ids, ...expected[0]!.ids, 3, 1, 4], 9)
      const [answer] = yield* engine.generate([next])
      assert.strictEqual(yield* reused, 6 * 32 + 48)
      assert.deepStrictEqual(answer, yield* alone(model.decoder, next))
      yield* engine.forgetPrefixes
      assert.strictEqual((yield* engine.stats).pagesRetained, 0)
      assert.deepStrictEqual(yield* engine.generate(requests.slice(0, 1)), expected.slice(0, 1))
      assert.strictEqual(yield* reused, 6 * 32 + 48)
    })
  )

  it.effect("the generator sees an adapter that was changed in place", () =>
    Effect.gen(function* () {
      const gpu = yield* Gpu
      const { model } = yield* loadShape(plain, 48)
      const lora = yield* loraFromPairs(model.config, { rank: 4, alpha: 6 }, randomPairs(plain, 4, 49))
      const requests = [0, 1].map((stream) => ({ ids: prompt(50, 40), stream }))
      const sizes = { slots: 2, capacity: 64, prefill: 64, rank: 4 }
      const generator = yield* makeGenerator(model.decoder, sizes)
      const before = yield* generator.generate(lora, requests, warm)
      yield* gpu.write(lora.params.flat, packLora(model.config, 4, randomPairs(plain, 4, 51)))
      const after = yield* generator.generate(lora, requests, warm)
      assert.notDeepEqual(after, before)
      const fresh = yield* makeGenerator(model.decoder, sizes)
      assert.deepStrictEqual(after, yield* fresh.generate(lora, requests, warm))
    })
  )

  it.effect("filters that leave one token are greedy, whatever the temperature", () =>
    Effect.gen(function* () {
      const { model } = yield* loadShape(plain, 64)
      const engine = yield* makeEngine(model.decoder, roomy)
      const ids = prompt(65, 9)
      const [greedy, ...others] = yield* engine.generate(
        [{ temperature: 0 }, { topK: 1 }, { minP: 1 }, { topP: 1e-6 }, { temperature: 1e-9 }].map((change, stream) =>
          request(ids, stream, { temperature: 1, seed: stream, ...change })
        )
      )
      for (const one of others) {
        assert.deepStrictEqual(one.ids, greedy!.ids)
        assert.deepStrictEqual(one.logProbs, greedy!.logProbs)
      }
    })
  )

  it.effect("log-probabilities are the scorer's within 1e-5, from shared pages and chunks as well", () =>
    Effect.gen(function* () {
      const { model } = yield* loadShape(plain, 66)
      const lora = yield* loraFromPairs(model.config, { rank: 4, alpha: 4 }, randomPairs(plain, 4, 67))
      const engine = yield* makeEngine(model.decoder, { ...roomy, prefillTokens: 11 })
      const ids = prompt(68, 37)
      const out = yield* engine.generate(
        Array.from({ length: 6 }, (_, stream) => ({ ...request(ids, stream, { temperature: 0.8, topK: 20 }), lora }))
      )
      const scorer = yield* makeScorer(model.decoder, { capacity: 128, rank: 4 })
      const scores = yield* scorer.score(
        lora,
        out.map((g) => ({ ids: [...ids, ...g.ids], loss: (t: number) => t >= ids.length })),
        0.8
      )
      out.forEach((g, i) => {
        assert.lengthOf(g.logProbs, 20)
        g.logProbs.forEach((x, t) => {
          assert.closeTo(x, scores[i]!.logProbs[t]!, 1e-5)
        })
      })
    })
  )

  it.effect(
    "chunks come in bursts and join to the whole; stop tokens and shouldStop end a sequence where they say",
    () =>
      Effect.gen(function* () {
        const { model } = yield* loadShape(plain, 69)
        const engine = yield* makeEngine(model.decoder, roomy)
        const base = request(prompt(70, 6), 0, { maxTokens: 30 })
        const whole = yield* alone(model.decoder, base)
        const chunks = yield* Stream.runCollect(engine.sample(base))
        assert.deepStrictEqual(
          chunks.map((c) => c.ids.length),
          [1, 8, 8, 8, 5]
        )
        assert.deepStrictEqual(
          chunks.map((c) => c.finish),
          [null, null, null, null, "length"]
        )
        assert.deepStrictEqual(
          chunks.flatMap((c) => [...c.ids]),
          whole.ids
        )
        const stop = whole.ids[12]!
        const at = whole.ids.indexOf(stop)
        const stopped = yield* collect(engine, { ...base, stopIds: [stop] })
        assert.deepStrictEqual(stopped, {
          ids: whole.ids.slice(0, at + 1),
          logProbs: whole.logProbs.slice(0, at + 1),
          truncated: false
        })
        const seen: Array<number> = []
        const until = (keep: number) => (ids: ReadonlyArray<number>) => {
          seen.push(ids.length)
          assert.deepStrictEqual(ids, whole.ids.slice(0, ids.length))
          return ids.length >= 11 ? keep : undefined
        }
        const cut = yield* collect(engine, { ...base, shouldStop: until(11) })
        assert.deepStrictEqual(cut.ids, whole.ids.slice(0, 11))
        assert.deepStrictEqual(seen, [1, 9, 17])
        // What has been handed out stays out.
        assert.lengthOf((yield* collect(engine, { ...base, shouldStop: until(4) })).ids, 9)
        assert.lengthOf((yield* collect(engine, { ...base, shouldStop: until(1000) })).ids, 17)
        // A callback that fails takes its own sequence with it and no other.
        const [bad, good] = yield* Effect.all(
          [
            refusal(
              collect(engine, {
                ...base,
                shouldStop: () => {
                  throw new Error("no such thing")
                }
              })
            ),
            collect(engine, { ...base, stream: 1 })
          ],
          { concurrency: "unbounded" }
        )
        assert.include(bad, "no such thing")
        assert.lengthOf(good.ids, 30)
        yield* assertIdle(engine)
      })
  )
})
