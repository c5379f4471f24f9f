import { assert, describe, it } from "@effect/vitest"
import { Effect, FileSystem } from "effect"
import { encodeTokenizer, trainBpe, writeTokenizer } from "../src/BpeTrainer.ts"
import { loadTokenizer } from "../src/Tokenizer.ts"
import { below, failsWith, platform, randomText, seeded, temporaryFolder } from "./support.ts"

const utf8 = new TextEncoder()
const training = (() => {
  const random = seeded(11)
  const texts = Array.from({ length: 80 }, () => randomText(random, 40))
  return [...texts, ...Array.from({ length: 40 }, () => "int f(char *buf) {\n    return 0;\n}\n 👍🏽 café")]
})()

const folder = Effect.gen(function* () {
  const directory = yield* temporaryFolder
  yield* writeTokenizer(directory, yield* trainBpe(training, { vocabSize: 400 }))
  return directory
})

const joined = (parts: ReadonlyArray<Uint8Array>): Uint8Array => Uint8Array.from(parts.flatMap((part) => [...part]))

describe("Tokenizer", () => {
  it.effect("bytes of the tokens are the UTF-8 of the text, for 1000 random texts", () =>
    Effect.gen(function* () {
      const tokenizer = yield* loadTokenizer(yield* folder)
      const random = seeded(12)
      for (let round = 0; round < 1000; round++) {
        const text = randomText(random, below(random, 40))
        const ids = tokenizer.encode(text)
        const bytes = utf8.encode(text)
        assert.deepStrictEqual(joined(ids.map(tokenizer.tokenBytes)), bytes)
        assert.strictEqual(tokenizer.decode(ids), text)
        const ranges = tokenizer.byteRanges(ids)
        assert.strictEqual(ranges.at(-1)?.end ?? 0, bytes.length)
        ranges.forEach((range, i) => {
          assert.strictEqual(range.start, ranges[i - 1]?.end ?? 0)
          assert.deepStrictEqual(bytes.slice(range.start, range.end), tokenizer.tokenBytes(ids[i]!))
        })
      }
    }).pipe(Effect.provide(platform))
  )

  it.effect("an emoji split over tokens keeps its bytes and offsets", () =>
    Effect.gen(function* () {
      const tokenizer = yield* loadTokenizer(yield* folder)
      const text = "a🦜b"
      const ids = tokenizer.encode(text)
      assert.isAbove(ids.length, 4, "the parrot takes more than one token")
      assert.strictEqual(tokenizer.decode(ids), text)
      assert.deepStrictEqual(tokenizer.byteRanges(ids).at(-1), { start: 5, end: 6 })
      assert.strictEqual(tokenizer.decode(ids.slice(1, 2)), "\ufffd", "half a character alone is U+FFFD")
    }).pipe(Effect.provide(platform))
  )

  it.effect("special tokens, empty text, lone surrogates, ids beyond the vocabulary", () =>
    Effect.gen(function* () {
      const tokenizer = yield* loadTokenizer(yield* folder)
      const ids = tokenizer.encode("x<|endoftext|>y")
      assert.deepStrictEqual(
        ids.map((id) => new TextDecoder().decode(tokenizer.tokenBytes(id))),
        ["x", "<|endoftext|>", "y"]
      )
      assert.strictEqual(ids[1], tokenizer.eosId)
      assert.strictEqual(tokenizer.decode(ids, { skipSpecialTokens: true }), "xy")
      assert.deepStrictEqual(tokenizer.encode(""), [])
      assert.strictEqual(tokenizer.decode([]), "")
      assert.strictEqual(tokenizer.decode(tokenizer.encode("\ud800!")), "\ufffd!")
      assert.strictEqual(tokenizer.tokenBytes(100_000).length, 0)
      assert.strictEqual(tokenizer.tokenBytes(-1).length, 0)
      assert.strictEqual(
        tokenizer.decode(tokenizer.encode("\ufeffx .")),
        "\ufeffx .",
        "byte order mark and blanks stay"
      )
      assert.strictEqual(tokenizer.tokenId("<|endoftext|>"), tokenizer.eosId)
    }).pipe(Effect.provide(platform))
  )

  it.effect("with an NFC normalizer the bytes are those of the normalised text", () =>
    Effect.gen(function* () {
      const fs = yield* FileSystem.FileSystem
      const directory = yield* folder
      const json = { ...encodeTokenizer(yield* trainBpe(training, { vocabSize: 400 })), normalizer: { type: "NFC" } }
      yield* fs.writeFileString(`${directory}/tokenizer.json`, JSON.stringify(json))
      const tokenizer = yield* loadTokenizer(directory)
      const text = "cafe\u0301 \u212b"
      assert.strictEqual(tokenizer.decode(tokenizer.encode(text)), text.normalize("NFC"))
      assert.notStrictEqual(text.normalize("NFC"), text)
    }).pipe(Effect.provide(platform))
  )

  it.effect("files that lie are named errors", () =>
    Effect.gen(function* () {
      const fs = yield* FileSystem.FileSystem
      const directory = yield* folder
      const good = encodeTokenizer(yield* trainBpe(training, { vocabSize: 400 }))
      const model = JSON.parse(JSON.stringify(good.model))
      const attempt = (json: unknown) =>
        Effect.andThen(
          fs
            .writeFileString(`${directory}/tokenizer.json`, typeof json === "string" ? json : JSON.stringify(json))
            .pipe(Effect.orDie),
          loadTokenizer(directory)
        )
      yield* attempt(good)
      const malformed: ReadonlyArray<unknown> = [
        "",
        '{"model":',
        "[]",
        "{}",
        { ...good, model: { ...model, vocab: null } },
        { ...good, model: { ...model, vocab: { ...model.vocab, extra: "7" } } },
        { ...good, model: { ...model, vocab: { ...model.vocab, extra: 2 ** 40 } } },
        { ...good, model: { ...model, vocab: { ...model.vocab, extra: 3 } } },
        { ...good, model: { ...model, vocab: { "!": 0 } } },
        { ...good, model: { ...model, merges: ["a zzz"] } },
        { ...good, model: { ...model, merges: [7] } },
        { ...good, model: { ...model, merges: null } },
        { ...good, added_tokens: [{ id: -1, content: "x" }] },
        { ...good, added_tokens: [{ id: 3, content: "<other>" }] },
        { ...good, added_tokens: [null] }
      ]
      for (const json of malformed) yield* failsWith(attempt(json), "Malformed")
      const unsupported: ReadonlyArray<unknown> = [
        { ...good, model: { ...model, type: "Unigram" } },
        { ...good, model: { ...model, byte_fallback: true } },
        { ...good, model: { ...model, end_of_word_suffix: "</w>" } },
        { ...good, pre_tokenizer: { type: "Metaspace" } },
        { ...good, pre_tokenizer: null },
        { ...good, pre_tokenizer: { type: "ByteLevel", add_prefix_space: true } },
        { ...good, decoder: { type: "Fuse" } },
        { ...good, normalizer: { type: "NoSuchThing" } }
      ]
      for (const json of unsupported) yield* failsWith(attempt(json), "Unsupported")
      yield* attempt(good)
      yield* fs.writeFileString(`${directory}/tokenizer_config.json`, "{}")
      yield* failsWith(loadTokenizer(directory), "Missing")
      yield* fs.writeFileString(`${directory}/tokenizer_config.json`, '{"eos_token":{"content":"<none>"}}')
      yield* failsWith(loadTokenizer(directory), "Missing")
      yield* fs.remove(`${directory}/tokenizer_config.json`)
      yield* failsWith(loadTokenizer(directory), "Missing")
      yield* failsWith(loadTokenizer(`${directory}/nowhere`), "Missing")
    }).pipe(Effect.provide(platform))
  )
})
