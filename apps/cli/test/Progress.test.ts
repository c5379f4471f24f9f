/** Progress lines: their arithmetic, and what is written when, on a terminal and off it. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer, Sink, Stdio, Terminal } from "effect"
import { TestClock } from "effect/testing"
import { duration, makeProgress, type ProgressEvent, progressLine } from "../src/progress.ts"

const event = (step: number, over: Partial<ProgressEvent> = {}): ProgressEvent => ({
  stage: "sft",
  step,
  total: 100,
  unit: "steps",
  ...over
})

describe("progressLine", () => {
  it("has step, rate and time left", () => {
    assert.strictEqual(progressLine(event(0), 0, 0), "sft: 0/100 steps")
    assert.strictEqual(progressLine(event(20), 0, 10), "sft: 20/100 steps, 2.00 steps/s, 40s left")
    assert.strictEqual(progressLine(event(100), 0, 50), "sft: 100/100 steps, 2.00 steps/s, done in 50s")
    assert.strictEqual(
      progressLine(event(5, { total: null, note: "loss 1.2" }), 0, 10),
      "sft: 5 steps, 0.50 steps/s, loss 1.2"
    )
  })

  it("does not count steps that an earlier process made", () => {
    assert.strictEqual(progressLine(event(60), 50, 10), "sft: 60/100 steps, 1.00 steps/s, 40s left")
  })

  it("writes durations for people", () => {
    assert.deepStrictEqual([0, 59.4, 60, 75, 3600, 7384].map(duration), [
      "0s",
      "59s",
      "1m00s",
      "1m15s",
      "1h00m",
      "2h03m"
    ])
  })
})

/** A fake terminal that records what is written to stderr. */
const recorder = (terminal: boolean) => {
  const written: Array<string> = []
  const record = (chunk: string | Uint8Array) =>
    Effect.sync(() => {
      written.push(String(chunk))
    })
  const stdio = Stdio.layerTest({
    stderrIsTerminal: Effect.succeed(terminal),
    stderr: () => Sink.forEach(record)
  })
  const screen = Layer.succeed(
    Terminal.Terminal,
    Terminal.make({
      columns: Effect.succeed(40),
      rows: Effect.succeed(20),
      size: Effect.die("unused"),
      readInput: Effect.die("unused"),
      readLine: Effect.die("unused"),
      display: () => Effect.void
    })
  )
  return { written, layer: Layer.merge(stdio, screen) }
}

describe("makeProgress", () => {
  it.effect("off a terminal: a plain line at the start, every ten seconds and at the end", () => {
    const { layer, written } = recorder(false)
    return Effect.gen(function* () {
      yield* Effect.scoped(
        Effect.gen(function* () {
          const progress = yield* makeProgress
          for (let step = 0; step <= 100; step++) {
            yield* progress.report(event(step))
            if (step < 100) yield* TestClock.adjust("250 millis")
          }
          yield* progress.report(event(100))
        })
      )
      assert.deepStrictEqual(written, [
        "sft: 0/100 steps\n",
        "sft: 40/100 steps, 4.00 steps/s, 15s left\n",
        "sft: 80/100 steps, 4.00 steps/s, 5s left\n",
        "sft: 100/100 steps, 4.00 steps/s, done in 25s\n"
      ])
    }).pipe(Effect.provide(layer))
  })

  it.effect("on a terminal: one line rewritten, cut to the width, and a fresh line at the end", () => {
    const { layer, written } = recorder(true)
    return Effect.gen(function* () {
      yield* Effect.scoped(
        Effect.gen(function* () {
          const progress = yield* makeProgress
          for (let step = 0; step < 50; step++) {
            yield* progress.report(event(step, { note: "a note that is much longer than the line" }))
            yield* TestClock.adjust("20 millis")
          }
        })
      )
      assert.strictEqual(written.at(-1), "\n")
      const drawn = written.slice(0, -1)
      assert.isAtMost(drawn.length, 11)
      for (const text of drawn) {
        assert.isTrue(text.startsWith("\r\u001b[2K"))
        assert.isBelow(text.length - 5, 40)
        assert.notInclude(text, "\n")
      }
    }).pipe(Effect.provide(layer))
  })

  it.effect("on a terminal a new stage starts below an unfinished one", () => {
    const { layer, written } = recorder(true)
    return Effect.gen(function* () {
      yield* Effect.scoped(
        Effect.gen(function* () {
          const progress = yield* makeProgress
          yield* progress.report(event(1))
          yield* progress.report(event(1, { stage: "rl", total: 1 }))
        })
      )
      assert.strictEqual(written.join(""), "\r\u001b[2Ksft: 1/100 steps\n\r\u001b[2Krl: 1/1 steps, done in 0s\n")
    }).pipe(Effect.provide(layer))
  })
})
