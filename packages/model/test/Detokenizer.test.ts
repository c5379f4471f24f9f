import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { type Detokenizer, type DetokenizerOptions, makeDetokenizer } from "../src/Detokenizer.ts"
import type { Tokenizer } from "../src/Tokenizer.ts"
import { below, platform, seeded } from "./support.ts"
import { codeLlama, hostileText, load, qwen } from "./tokenizer-fixtures.ts"

const tokenizers = Effect.all([Effect.flatMap(qwen(), load), load(codeLlama())])

/** All ids in random bursts, some of them empty; text and stop as they came out. */
const feed = (detokenizer: Detokenizer, ids: ReadonlyArray<number>, random: () => number) => {
  let text = ""
  for (let from = 0; from < ids.length; ) {
    const size = below(random, 5)
    text += detokenizer.push(ids.slice(from, from + size)).text
    from += size
  }
  text += detokenizer.finish()
  return { text, stopped: detokenizer.push([]).stopped }
}

/** The text that the first `count` tokens settle, however the bytes go on. */
const settled = (tokenizer: Tokenizer, ids: ReadonlyArray<number>, count: number, options: DetokenizerOptions) => {
  const kept = ids.slice(0, count).filter((id) => options.skipSpecialTokens !== true || !tokenizer.specialIds.has(id))
  const bytes = kept.flatMap((id) => [...tokenizer.tokenBytes(id)])
  const strips = options.continuation !== true && tokenizer.strippedSpaces === 1 && bytes[0] === 0x20
  return new TextDecoder("utf-8", { ignoreBOM: true }).decode(Uint8Array.from(strips ? bytes.slice(1) : bytes), {
    stream: true
  })
}

/** By definition: the shortest beginning of the text that ends with a stop string, and there the longest such string. */
const naive = (tokenizer: Tokenizer, ids: ReadonlyArray<number>, options: DetokenizerOptions) => {
  const text = tokenizer.decode(ids, options)
  const stops = [...(options.stop ?? [])].filter((stop) => stop !== "").sort((a, b) => b.length - a.length)
  for (let end = 1; end <= text.length; end++) {
    const stop = stops.find((each) => text.slice(0, end).endsWith(each))
    if (stop === undefined) continue
    const kept = text.slice(0, end - stop.length)
    const needs = (length: number) => {
      for (let count = 0; count <= ids.length; count++) {
        if (settled(tokenizer, ids, count, options).length >= length) return count
      }
      return ids.length
    }
    return { text: kept, stopped: { stop, tokens: needs(end), textTokens: needs(kept.length) } }
  }
  return { text, stopped: null }
}

const randomIds = (tokenizer: Tokenizer, random: () => number): ReadonlyArray<number> =>
  below(random, 2) === 0
    ? tokenizer.encode(hostileText(random, below(random, 5))).slice(0, 60)
    : Array.from({ length: below(random, 30) }, () => below(random, tokenizer.vocabSize + 2))

describe("Detokenizer", () => {
  it.effect("bursts join to decode(ids), half characters and broken bytes included", () =>
    Effect.gen(function* () {
      for (const tokenizer of yield* tokenizers) {
        const random = seeded(51)
        for (let round = 0; round < 400; round++) {
          const ids = randomIds(tokenizer, random)
          const options = { continuation: below(random, 2) === 0, skipSpecialTokens: below(random, 2) === 0 }
          const { text, stopped } = feed(makeDetokenizer(tokenizer, options), ids, random)
          assert.strictEqual(text, tokenizer.decode(ids, options))
          assert.isNull(stopped)
        }
      }
    }).pipe(Effect.provide(platform))
  )

  it.effect("stop strings cut as by definition, for any bursts", () =>
    Effect.gen(function* () {
      let found = 0
      for (const tokenizer of yield* tokenizers) {
        const random = seeded(52)
        for (let round = 0; round < 500; round++) {
          const ids = below(random, 3) === 0 ? randomIds(tokenizer, random) : overlapping(tokenizer, random)
          const text = tokenizer.decode(ids)
          const stop = Array.from({ length: 1 + below(random, 3) }, () => {
            const from = below(random, text.length + 1)
            const piece = text.slice(from, from + below(random, 6))
            return below(random, 4) === 0 ? "abab".slice(0, below(random, 5)) : piece
          }).filter((each) => each.isWellFormed())
          const options = { stop, continuation: below(random, 2) === 0 }
          const expected = naive(tokenizer, ids, options)
          const actual = feed(makeDetokenizer(tokenizer, options), ids, random)
          assert.deepStrictEqual(actual, expected, JSON.stringify({ text, stop }))
          if (expected.stopped !== null) found++
        }
      }
      assert.isAbove(found, 300)
    }).pipe(Effect.provide(platform))
  )

  it.effect("nothing is returned before it is certain, and no later than that", () =>
    Effect.gen(function* () {
      const [tokenizer] = yield* tokenizers
      const byte = (value: number) => tokenizer.encode(String.fromCharCode(value))
      const parrot = tokenizer.encode("🦜")
      assert.isAbove(parrot.length, 1)
      const plain = makeDetokenizer(tokenizer)
      assert.strictEqual(plain.push(parrot.slice(0, -1)).text, "")
      assert.strictEqual(plain.push(parrot.slice(-1)).text, "🦜")
      assert.strictEqual(plain.push(parrot.slice(0, 1)).text, "")
      assert.strictEqual(plain.finish(), "\ufffd")
      assert.strictEqual(plain.finish(), "")
      assert.deepStrictEqual(plain.push(byte(0x41)), { text: "", stopped: null })

      const stopping = makeDetokenizer(tokenizer, { stop: ["aab", "", "🦜"] })
      assert.strictEqual(stopping.push(byte(0x61)).text, "")
      assert.strictEqual(stopping.push(byte(0x61)).text, "")
      assert.strictEqual(stopping.push(byte(0x61)).text, "a", "two may still begin a stop")
      assert.strictEqual(stopping.push(byte(0x63)).text, "aac")
      const last = stopping.push([...byte(0x64), ...parrot, ...byte(0x65)])
      const tokens = 5 + parrot.length
      assert.deepStrictEqual(last, { text: "d", stopped: { stop: "🦜", tokens, textTokens: 5 } })
      assert.deepStrictEqual(stopping.push(byte(0x65)), { text: "", stopped: last.stopped })
      assert.strictEqual(stopping.finish(), "")

      const broken = makeDetokenizer(tokenizer, { stop: ["\ufffd"] })
      broken.push([...byte(0x61), parrot[0]!])
      assert.strictEqual(broken.finish(), "")
      assert.deepStrictEqual(broken.push([]).stopped, { stop: "\ufffd", tokens: 2, textTokens: 1 })

      const unfinished = makeDetokenizer(tokenizer, { stop: ["ab"] })
      assert.strictEqual(unfinished.push(byte(0x61)).text, "")
      assert.strictEqual(unfinished.finish(), "a")
    }).pipe(Effect.provide(platform))
  )

  it.effect("the first complete one wins, of those the longest; a stop may be all there is", () =>
    Effect.gen(function* () {
      for (const tokenizer of yield* tokenizers) {
        const stopOf = (text: string, stop: ReadonlyArray<string>) => {
          const detokenizer = makeDetokenizer(tokenizer, { stop })
          const result = detokenizer.push(tokenizer.encode(text))
          return [result.text + detokenizer.finish(), result.stopped?.stop, result.stopped?.textTokens]
        }
        assert.deepStrictEqual(stopOf("xabcd", ["abcd", "bc"]).slice(0, 2), ["xa", "bc"])
        assert.deepStrictEqual(stopOf("xabc", ["bc", "abc", "c"]).slice(0, 2), ["x", "abc"])
        assert.deepStrictEqual(stopOf("\n```", ["\n```"]), ["", "\n```", 0])
        assert.deepStrictEqual(stopOf("int x;\n\n\n", ["\n\n"]).slice(0, 2), ["int x;", "\n\n"])
        assert.deepStrictEqual(stopOf("", ["a"]), ["", undefined, undefined])
      }
    }).pipe(Effect.provide(platform))
  )
})

/** Few letters and long stops overlap each other in every way. */
const overlapping = (tokenizer: Tokenizer, random: () => number): ReadonlyArray<number> =>
  tokenizer.encode(
    Array.from({ length: below(random, 30) }, () => ["a", "b", "ab", "aab", " a", "é", "🦜"][below(random, 7)]!).join(
      ""
    )
  )
