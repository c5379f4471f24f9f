/** The engine: joining and leaving, shared beginnings, cancelling, waiting for pages, faults, and what a request may ask. */
import { assert, layer } from "@effect/vitest"
import { Gpu, GpuError, gpuError, Validation } from "@srcode/gpu"
import { Effect, Exit, Fiber, Latch, Scope, Stream } from "effect"
import {
  type Decoder,
  type Engine,
  type EngineOptions,
  loraFromPairs,
  type ModelError,
  makeEngine,
  makeGenerator,
  makeScorer,
  packLora,
  type SamplingParams,
  type SequenceRequest
} from "../src/index.ts"
import { plain, randomPairs } from "./reference/checkpoint.ts"
import { DeviceLayer, loadShape } from "./reference/device.ts"
import { below, seeded } from "./support.ts"

const warm: SamplingParams = { temperature: 1, topP: 1, topK: 0, minP: 0, maxTokens: 20, seed: 7 }

const request = (
  ids: ReadonlyArray<number>,
  stream: number,
  change: Partial<SamplingParams> = {}
): SequenceRequest => ({
  ids,
  stream,
  lora: null,
  sampling: { ...warm, ...change }
})

const prompt = (seed: number, length: number): ReadonlyArray<number> => {
  const next = seeded(seed)
  return Array.from({ length }, () => below(next, plain.vocab))
}

const roomy: EngineOptions = { maxSequences: 8, maxTokens: 96, prefillTokens: 200, rank: 4 }

/** The request by itself in an engine of its own. */
const alone = Effect.fnUntraced(function* (decoder: Decoder, one: SequenceRequest) {
  const engine = yield* makeEngine(decoder, { ...roomy, maxSequences: 1 })
  const [out] = yield* engine.generate([one])
  return out!
}, Effect.scoped)

const collect = (engine: Engine, one: SequenceRequest) =>
  Stream.runCollect(engine.sample(one)).pipe(
    Effect.map((chunks) => ({
      ids: chunks.flatMap((c) => [...c.ids]),
      logProbs: chunks.flatMap((c) => [...c.logProbs]),
      truncated: chunks.at(-1)?.finish === "length"
    }))
  )

/** Everything is given back. */
const assertIdle = Effect.fnUntraced(function* (engine: Engine) {
  const { pagesUsed, running, waiting } = yield* engine.stats
  assert.deepStrictEqual({ pagesUsed, running, waiting }, { pagesUsed: 0, running: 0, waiting: 0 })
})

const refusal = <A, R>(effect: Effect.Effect<A, GpuError | ModelError, R>) =>
  Effect.flip(effect).pipe(
    Effect.map((error) => {
      assert.strictEqual(error._tag, "ModelError")
      assert.notMatch(error.message, /\n/)
      return error.message
    })
  )

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

  it.effect("ending or interrupting a stream gives back its slot and pages, running or waiting", () =>
    Effect.gen(function* () {
      const { model } = yield* loadShape(plain, 52)
      const engine = yield* makeEngine(model.decoder, { ...roomy, maxSequences: 2, prefillTokens: 10 })
      const long = (stream: number) => request(prompt(53 + stream, 30), stream, { maxTokens: 60 })
      const some = yield* Stream.runCollect(Stream.take(engine.sample(long(0)), 2))
      assert.lengthOf(some, 2)
      yield* assertIdle(engine)
      // Two run, two wait; all are interrupted in different states.
      const started = yield* Latch.make(false)
      const fibers = yield* Effect.forEach([1, 2, 3, 4], (stream) =>
        Effect.forkChild(Stream.runForEach(engine.sample(long(stream)), () => started.open))
      )
      yield* started.await
      const { running, waiting, pagesUsed } = yield* engine.stats
      assert.deepStrictEqual([running, waiting], [2, 2])
      assert.isAbove(pagesUsed, 0)
      yield* Fiber.interrupt(fibers[3]!)
      yield* Fiber.interrupt(fibers[0]!)
      yield* Fiber.interrupt(fibers[1]!)
      yield* Fiber.interrupt(fibers[2]!)
      yield* assertIdle(engine)
      const interrupted = yield* Effect.forkChild(engine.generate([5, 6, 7].map(long)))
      yield* Effect.yieldNow
      yield* Fiber.interrupt(interrupted)
      yield* assertIdle(engine)
      // What is left works as ever.
      const one = request(prompt(60, 12), 0)
      assert.deepStrictEqual(yield* engine.generate([one]), [yield* alone(model.decoder, one)])
    })
  )

  it.effect("what finds no pages waits its turn; what can never fit is refused with the numbers", () =>
    Effect.gen(function* () {
      const { model } = yield* loadShape(plain, 61)
      // Four pages: 64 rows, one sequence of 65 tokens or two of 33.
      const engine = yield* makeEngine(model.decoder, { ...roomy, pages: 4 })
      assert.strictEqual(engine.limits.maxTokens, 64)
      const requests = Array.from({ length: 7 }, (_, i) => request(prompt(62 + i, 12), i))
      const most: Array<number> = []
      const out = yield* engine.generate(requests, (done) =>
        Effect.map(engine.stats, ({ running, waiting }) => {
          assert.strictEqual(done + running + waiting, 7)
          most.push(running)
        })
      )
      assert.isTrue(most.every((running) => running <= 2))
      assert.isAbove(most.length, 2)
      for (const [i, one] of requests.entries()) assert.deepStrictEqual(out[i], yield* alone(model.decoder, one))
      const message = yield* refusal(engine.generate([requests[0]!, request(prompt(1, 45), 0)]))
      assert.include(message, "45 tokens")
      assert.include(message, "64 tokens")
      assert.strictEqual(yield* refusal(Stream.runCollect(engine.sample(request(prompt(1, 45), 0)))), message)
      yield* assertIdle(engine)
    })
  )

  it.effect("requests that make no sense are refused in one line, before anything runs", () =>
    Effect.gen(function* () {
      const { model } = yield* loadShape(plain, 63)
      const engine = yield* makeEngine(model.decoder, roomy)
      const good = request([1, 2, 3], 0)
      const big = yield* loraFromPairs(model.config, { rank: 8, alpha: 8 }, randomPairs(plain, 8, 1))
      const bad: ReadonlyArray<readonly [string, SequenceRequest]> = [
        ["topK", request([1], 0, { topK: -1 })],
        ["topK", request([1], 0, { topK: 1.5 })],
        ["minP", request([1], 0, { minP: 1.1 })],
        ["minP", request([1], 0, { minP: Number.NaN })],
        ["topP", request([1], 0, { topP: 0 })],
        ["seed", request([1], 0, { seed: 0.5 })],
        ["stream", request([1], Number.POSITIVE_INFINITY)],
        ["temperature", request([1], 0, { temperature: Number.NaN })],
        ["rank 8", { ...good, lora: big }],
        ["empty", request([], 0)],
        [`${plain.vocab}`, request([plain.vocab], 0)]
      ]
      for (const [word, one] of bad) {
        assert.include(yield* refusal(Stream.runCollect(engine.sample(one))), word)
        assert.include(yield* refusal(engine.generate([good, one])), word)
      }
      assert.strictEqual((yield* engine.stats).promptTokens, 0)
      for (const wrong of [{ maxSequences: 0 }, { prefillTokens: 0.5 }, { maxTokens: -1 }])
        yield* refusal(Effect.scoped(makeEngine(model.decoder, { ...roomy, ...wrong })))
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

  it.effect("a device that fails once fails all that wait for it, and the engine goes on with what comes after", () =>
    Effect.gen(function* () {
      const { model } = yield* loadShape(plain, 71)
      const gpu = yield* Gpu
      for (const [verb, at] of [
        ["submit", 1],
        ["submit", 4],
        ["read", 1],
        ["read", 3]
      ] as const) {
        let calls = 0
        const failing = <A>(effect: Effect.Effect<A, GpuError>, name: "submit" | "read"): Effect.Effect<A, GpuError> =>
          Effect.suspend(() =>
            name === verb && ++calls === at
              ? Effect.fail(gpuError(new Validation({ operation: "test", detail: "fault" })))
              : effect
          )
        const faulty = Gpu.of({
          ...gpu,
          submit: (label, record) => failing(gpu.submit(label, record), "submit"),
          read: (tensor) => failing(gpu.read(tensor), "read")
        })
        const engine = yield* Effect.provideService(
          makeEngine(model.decoder, { ...roomy, maxSequences: 2 }),
          Gpu,
          faulty
        )
        const requests = Array.from({ length: 4 }, (_, i) => request(prompt(72, 20), i, { maxTokens: 40 }))
        const results = yield* Effect.forEach(requests, (one) => Effect.flip(collect(engine, one)), {
          concurrency: "unbounded"
        })
        for (const error of results) {
          assert.instanceOf(error, GpuError)
          assert.include(error.message, "fault")
        }
        yield* assertIdle(engine)
        const again = yield* engine.generate(requests)
        assert.deepStrictEqual(again[3], yield* alone(model.decoder, requests[3]!))
        assert.isAbove(calls, at)
      }
    })
  )

  it.effect("an engine that closes tells who still waits, and its memory is freed", () =>
    Effect.gen(function* () {
      const { model } = yield* loadShape(plain, 73)
      const gpu = yield* Gpu
      const before = (yield* gpu.memory).live
      const scope = yield* Scope.make()
      const engine = yield* Scope.provide(makeEngine(model.decoder, { ...roomy, maxSequences: 1 }), scope)
      const started = yield* Latch.make(false)
      const fibers = yield* Effect.forEach([0, 1], (stream) =>
        Effect.forkChild(
          refusal(
            Stream.runForEach(engine.sample(request(prompt(74, 5), stream, { maxTokens: 80 })), () => started.open)
          )
        )
      )
      yield* started.await
      yield* Scope.close(scope, Exit.void)
      for (const fiber of fibers) assert.include(yield* Fiber.join(fiber), "closed")
      assert.include(yield* refusal(engine.generate([request([1], 0)])), "closed")
      assert.strictEqual((yield* gpu.memory).live, before)
    })
  )
})
