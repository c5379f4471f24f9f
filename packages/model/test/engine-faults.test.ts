/** The engine when things end early or go wrong: cancelling, waiting for pages, refusals, a device that fails, closing. */
import { assert, layer } from "@effect/vitest"
import { Gpu, GpuError, gpuError, planMemory, Validation } from "@srcode/gpu"
import { Effect, Exit, Fiber, Latch, Scope, Stream } from "effect"
import { loraFromPairs, makeEngine, type SequenceRequest } from "../src/index.ts"
import { plain, randomPairs } from "./reference/checkpoint.ts"
import { DeviceLayer, loadShape } from "./reference/device.ts"
import { alone, assertIdle, collect, prompt, refusal, request, roomy } from "./reference/engine.ts"

layer(DeviceLayer)("engine, ended early", (it) => {
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
          run: (program) => failing(gpu.run(program), "submit"),
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
      // A plan made without a device counts the same bytes.
      const one = { ...roomy, maxSequences: 1 }
      const plan = yield* planMemory((section) => section("engine", makeEngine(model.decoder, one)))
      const live = yield* Effect.scoped(
        Effect.andThen(
          makeEngine(model.decoder, one),
          Effect.map(gpu.memory, (m) => m.live)
        )
      )
      assert.strictEqual(plan.total, live - before)
    })
  )
})
