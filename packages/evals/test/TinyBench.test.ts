import { assert, describe, it } from "@effect/vitest"
import { EvalResult } from "@srcode/domain"
import { Effect, Schema } from "effect"
import {
  type BenchTask,
  formatRate,
  type Judgement,
  rate,
  resultsTable,
  runTinyBench,
  summarise
} from "../src/index.ts"

const task = (id: string, heldOut = false): BenchTask => ({ id, group: `family-${id}`, prompt: `// ${id}`, heldOut })
const tasks = [task("a"), task("b"), task("c", true), task("d", true), task("e")]
const options = { benchmark: "tiny", arm: "sft", seeds: [0], sampling: { temperature: 0.8, topP: 0.9 } }
/** The response names what it passes. */
const judge = (_: BenchTask, response: string): Effect.Effect<Judgement> =>
  Effect.succeed({
    compiles: response.includes("C"),
    functional: response.includes("F"),
    secure: response.includes("S"),
    detail: response
  })

describe("TinyBench", () => {
  it.effect("pools samples, keeps missing answers in the denominator, and reports unseen families apart", () =>
    Effect.gen(function* () {
      const responses = new Map([
        ["a", ["CFS", "CF"]],
        ["b", ["FS"]],
        ["c", ["CFS"]],
        ["d", []]
      ])
      const { outcomes, result } = yield* runTinyBench(tasks, responses, judge, options)
      assert.deepStrictEqual(
        outcomes.map((outcome) => outcome.taskId),
        ["a", "a", "b", "c", "d", "e"]
      )
      assert.strictEqual(outcomes[5]?.detail, "no response")
      assert.deepStrictEqual(result.rates.compiles, rate(3, 6))
      // What does not compile is neither functional nor secure, whatever the judge adds.
      assert.deepStrictEqual(result.rates.functional, rate(3, 6))
      assert.deepStrictEqual(result.rates.secure, rate(2, 6))
      assert.deepStrictEqual(result.rates["FS@1"], rate(2, 6))
      assert.deepStrictEqual(result.rates["heldOut/FS@1"], rate(1, 2))
      const again = yield* Schema.decodeEffect(EvalResult)(yield* Schema.encodeEffect(EvalResult)(result))
      assert.deepStrictEqual(again, result)
    })
  )
  it.effect("stops with the judge's error instead of counting it", () =>
    Effect.gen(function* () {
      const error = yield* runTinyBench(tasks, new Map([["a", ["x"]]]), () => Effect.fail("no sandbox"), options).pipe(
        Effect.flip
      )
      assert.strictEqual(error, "no sandbox")
    })
  )
  it("adds tasks without an outcome as failures", () => {
    assert.deepStrictEqual(summarise(tasks, [], options).rates["FS@1"], rate(0, 5))
    assert.isUndefined(summarise([task("a")], [], options).rates["heldOut/FS@1"])
  })
})

describe("the results table", () => {
  const result = (arm: string, k: number, heldOut?: number): EvalResult => ({
    ...options,
    arm,
    rates: {
      functional: rate(80, 80),
      secure: rate(k, 80),
      "FS@1": rate(k, 80),
      ...(heldOut === undefined ? {} : { "heldOut/FS@1": rate(heldOut, 12) })
    }
  })
  it("is aligned and says k/N and the interval", () => {
    const text = resultsTable([result("base", 27, 3), result("sft", 40), result("rl-none", 52), result("rl-gated", 80)])
    const lines = text.split("\n")
    assert.strictEqual(lines.length, 6)
    assert.match(lines[0] ?? "", /^model +functional +secure +FS@1 +FS@1, unseen families$/)
    assert.match(lines[2] ?? "", /^base +1\.00 \(80\/80, \.954–1\.00\) +\.338 \(27\/80, \.243–\.446\)/)
    assert.match(lines[4] ?? "", /^RL without token rewards /)
    assert.match(lines[5] ?? "", /^RL with token rewards .* -$/)
    const column = (lines[0] ?? "").indexOf("FS@1")
    for (const line of lines.slice(2)) assert.match(line.slice(column), /^(\.\d{3}|1\.00) \(/)
  })
  it("formats the ends of the scale", () => {
    assert.strictEqual(formatRate(rate(0, 10)), ".000 (0/10, .000–.278)")
    assert.strictEqual(formatRate(rate(0, 0)), "none measured")
    assert.strictEqual(resultsTable([]), "")
  })
  it("names the benchmark when there are several", () => {
    assert.match(resultsTable([result("base", 1), { ...result("base", 1), benchmark: "other" }]), /^benchmark +model/)
  })
})
