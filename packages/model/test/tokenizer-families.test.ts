import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { byteToChar } from "../src/internal/byte-alphabet.ts"
import type { Tokenizer } from "../src/Tokenizer.ts"
import { below, failsWith, platform, seeded } from "./support.ts"
import {
  codeLlama,
  deepSeek,
  type Family,
  hostileText,
  load,
  metaspace,
  qwen,
  slowBpe,
  slowDeepSeekWords,
  slowQwenWords,
  unusedBytes
} from "./tokenizer-fixtures.ts"

const utf8 = new TextEncoder()
const asBytes = (text: string): string => Array.from(utf8.encode(text), (byte) => byteToChar[byte]!).join("")
const spaced = (text: string): string => text.toWellFormed().replaceAll("▁", " ")

/** Ranges are contiguous, cover the UTF-8 of the text exactly, and hold the bytes of their tokens. */
const checkSpans = (tokenizer: Tokenizer, ids: ReadonlyArray<number>, continuation = false): void => {
  const bytes = utf8.encode(tokenizer.decode(ids, { continuation }))
  const ranges = tokenizer.byteRanges(ids, { continuation })
  assert.strictEqual(ranges.length, ids.length)
  assert.strictEqual(ranges.at(-1)?.end ?? 0, bytes.length)
  ranges.forEach(({ start, end }, i) => {
    assert.strictEqual(start, ranges[i - 1]?.end ?? 0)
    const own = tokenizer.tokenBytes(ids[i]!)
    const cut = own.length - (end - start)
    assert.isAtMost(cut, start === 0 && !continuation ? tokenizer.strippedSpaces : 0)
    assert.deepStrictEqual(bytes.slice(start, end), own.slice(cut))
  })
}

const family = (name: string) => {
  const llama = (changes: Family["json"]) => Effect.succeed(codeLlama(changes))
  switch (name) {
    case "Qwen":
      return { files: qwen(), expected: (text: string) => text.toWellFormed().normalize("NFC") }
    case "DeepSeek":
      return { files: deepSeek(), expected: (text: string) => text.toWellFormed() }
    case "CodeLlama":
      return { files: llama({}), expected: spaced }
    default: {
      const [, scheme = "", split = ""] = name.split(" ")
      const files = llama({ normalizer: null, pre_tokenizer: metaspace(scheme, split === "split") })
      // no space is put before one that is there, and decoding takes it away
      return { files, expected: (text: string) => spaced(text).replace(/^ /, "") }
    }
  }
}

const names = [
  "Qwen",
  "DeepSeek",
  "CodeLlama",
  "Metaspace always split",
  "Metaspace first whole",
  "Metaspace never whole"
]

describe("tokenizer families", () => {
  for (const name of names) {
    it.effect(`${name}: hostile texts come back, spans are exact, for texts and for random ids`, () =>
      Effect.gen(function* () {
        const { files, expected } = family(name)
        const tokenizer = yield* load(yield* files)
        const random = seeded(41)
        for (let round = 0; round < 200; round++) {
          const text = hostileText(random, below(random, 12))
          const ids = tokenizer.encode(text)
          assert.strictEqual(tokenizer.decode(ids), expected(text), JSON.stringify(text))
          checkSpans(tokenizer, ids)
          const continued = tokenizer.encode(text, { continuation: true })
          const whole = name.startsWith("Qwen") ? expected(text) : spaced(text)
          if (tokenizer.kind === "sentencepiece") {
            assert.strictEqual(tokenizer.decode(continued, { continuation: true }), whole)
          } else assert.deepStrictEqual(continued, ids)
          checkSpans(tokenizer, continued, true)
        }
        for (let round = 0; round < 200; round++) {
          const ids = Array.from({ length: below(random, 9) }, () => below(random, tokenizer.vocabSize + 3))
          const joined = ids.flatMap((id) => [...tokenizer.tokenBytes(id)])
          const stripped = tokenizer.strippedSpaces > 0 && joined[0] === 0x20 ? joined.slice(1) : joined
          assert.strictEqual(
            tokenizer.decode(ids),
            new TextDecoder("utf-8", { ignoreBOM: true }).decode(Uint8Array.from(stripped))
          )
          const ranges = tokenizer.byteRanges(ids)
          assert.strictEqual(ranges.at(-1)?.end ?? 0, stripped.length)
          ranges.forEach(({ start, end }, i) => {
            assert.strictEqual(start, ranges[i - 1]?.end ?? 0)
            const own = [...tokenizer.tokenBytes(ids[i]!)]
            assert.deepStrictEqual(stripped.slice(start, end), own.slice(own.length - (end - start)))
          })
        }
      }).pipe(Effect.provide(platform))
    )
  }

  it.effect("byte-level ids are those of plain BPE over plainly cut words", () =>
    Effect.gen(function* () {
      const cases = [
        { files: yield* qwen(), cut: slowQwenWords },
        { files: yield* deepSeek(), cut: slowDeepSeekWords }
      ]
      for (const { files, cut } of cases) {
        const tokenizer = yield* load(files)
        const random = seeded(42)
        for (let round = 0; round < 120; round++) {
          const text = hostileText(random, below(random, 6))
            .toWellFormed()
            .replace(/[õ÷ÁýÀÿøúþüùöû]/gu, "")
          const slow = cut(text).flatMap((word) => slowBpe([...asBytes(word)], files.merges))
          assert.deepStrictEqual(
            tokenizer.encode(text),
            slow.map((token) => files.vocab[token]!),
            JSON.stringify(text)
          )
        }
      }
    }).pipe(Effect.provide(platform))
  )

  it.effect("SentencePiece ids are those of plain BPE with byte fallback; cutting long texts changes nothing", () =>
    Effect.gen(function* () {
      const files = codeLlama()
      const tokenizer = yield* load(files)
      const random = seeded(43)
      let fallbacks = 0
      for (let round = 0; round < 120; round++) {
        const text = hostileText(random, 1 + below(random, 6))
        const symbols = [...`▁${text.toWellFormed().replaceAll(" ", "▁")}`]
        const slow = slowBpe(symbols, files.merges).flatMap((token) => {
          if (files.vocab[token] !== undefined) return [files.vocab[token]]
          fallbacks++
          return Array.from(utf8.encode(token), (byte) => 3 + byte)
        })
        assert.deepStrictEqual(tokenizer.encode(text), slow, JSON.stringify(text))
      }
      assert.isAbove(fallbacks, 500)
    }).pipe(Effect.provide(platform))
  )

  it.effect("DeepSeek: letters that are added tokens, digits of every script, the first token by class", () =>
    Effect.gen(function* () {
      const files = yield* deepSeek()
      const tokenizer = yield* load(files)
      for (const letter of unusedBytes) {
        const id = tokenizer.tokenId(letter)!
        assert.deepStrictEqual(tokenizer.encode(letter), [id])
        assert.strictEqual(tokenizer.decode([id]), letter)
      }
      assert.strictEqual(tokenizer.decode(tokenizer.encode("Köln füür")), "Köln füür")
      // a merge from the end of one digit into the next must find nothing to join
      const [end, start] = [byteToChar[0xb2]!, byteToChar[0xc2]!]
      const model = files.json.model as Family["json"]
      const reaching = { vocab: { ...files.vocab, [end + start]: 2000 }, merges: [[end, start]] }
      const joining = yield* load({ ...files, json: { ...files.json, model: { ...model, ...reaching } } })
      assert.strictEqual(joining.encode("²²½").length, 6)
      assert.include(joining.encode("βµ"), 2000, "elsewhere it does")
      const bos = tokenizer.bosId!
      const plain = tokenizer.encode("int x;")
      assert.deepStrictEqual(tokenizer.encode("int x;", { addSpecialTokens: true }), [bos, ...plain])
      const rendered = "<｜begin▁of▁sentence｜>int x;"
      assert.deepStrictEqual(tokenizer.encode(rendered, { addSpecialTokens: true }), [bos, ...plain], "not twice")
      assert.deepStrictEqual(tokenizer.encode("", { addSpecialTokens: true }), [bos])
      assert.isTrue(tokenizer.specialIds.has(tokenizer.eosId), "eos_token is special whatever the list says")
      assert.strictEqual(tokenizer.decode([bos, ...plain, tokenizer.eosId], { skipSpecialTokens: true }), "int x;")
      const both = yield* load({ ...files, config: { ...files.config, add_bos_token: false, add_eos_token: true } })
      assert.deepStrictEqual(both.encode("int x;", { addSpecialTokens: true }), [...plain, both.eosId])
    }).pipe(Effect.provide(platform))
  )

  it.effect("CodeLlama: added tokens, leading spaces, byte tokens", () =>
    Effect.gen(function* () {
      const tokenizer = yield* load(codeLlama())
      const text = (ids: ReadonlyArray<number>) => ids.map((id) => new TextDecoder().decode(tokenizer.tokenBytes(id)))
      assert.deepStrictEqual(tokenizer.encode(""), [])
      assert.strictEqual(tokenizer.encode("a</s>b").indexOf(tokenizer.eosId), 1)
      assert.strictEqual(text(tokenizer.encode("a</s>b")).join("|"), " a|</s>| |b", "each piece gets its space")
      assert.strictEqual(tokenizer.decode(tokenizer.encode("a</s>b")), "a</s> b")
      assert.deepStrictEqual(tokenizer.encode("x", { addSpecialTokens: true }), [1, ...tokenizer.encode("x")])
      assert.strictEqual(tokenizer.decode(tokenizer.encode("x", { addSpecialTokens: true })), "<s> x")
      assert.strictEqual(tokenizer.decode([1, ...tokenizer.encode("x")], { skipSpecialTokens: true }), "x")
      const indented = tokenizer.encode("    return 0;")
      assert.strictEqual(tokenizer.decode(indented), "    return 0;")
      assert.deepStrictEqual(tokenizer.byteRanges(tokenizer.encode("int"))[0]?.start, 0)
      const space = tokenizer.tokenId("▁")!
      assert.deepStrictEqual(tokenizer.byteRanges([space, space, 3 + 0x41]), [
        { start: 0, end: 0 },
        { start: 0, end: 1 },
        { start: 1, end: 2 }
      ])
      assert.strictEqual(tokenizer.decode([3 + 0x20, 3 + 0xf0, 3 + 0x9f, 3 + 0x99, 3 + 0x82]), "🙂")
      assert.strictEqual(tokenizer.decode([3 + 0x0a, 3 + 0xe2, 3 + 0x41]), "\n\ufffdA", "only the broken byte is lost")
      assert.strictEqual(tokenizer.decode([3 + 0xef, 3 + 0xbb, 3 + 0xbf]), "\ufeff", "a byte order mark stays")
      const prompt = tokenizer.encode("int main(")
      const rest = tokenizer.encode("int argc)", { continuation: true })
      assert.strictEqual(tokenizer.decode([...prompt, ...rest]), "int main(int argc)")
      assert.strictEqual(tokenizer.decode(tokenizer.encode(" x", { continuation: true }), { continuation: true }), " x")
      const first = yield* load(codeLlama({ normalizer: null, pre_tokenizer: metaspace("first", false) }))
      assert.strictEqual(first.decode(first.encode("a[INST]b</s>c")), "a[INST]b</s>c", "only the first gets a space")
      const always = yield* load(codeLlama({ normalizer: null, pre_tokenizer: metaspace("always", false) }))
      assert.strictEqual(always.decode(always.encode("a[INST]b</s>c")), "a[INST] b</s> c")
      // [INST] is looked for in the normalised text, where it has its space
      assert.isTrue(tokenizer.encode("[INST] hi").includes(tokenizer.tokenId("[INST]")!))
      assert.isFalse(tokenizer.encode("x[INST]").includes(tokenizer.tokenId("[INST]")!))
    }).pipe(Effect.provide(platform))
  )

  it.effect("flags of added tokens, and the configuration's list wins", () =>
    Effect.gen(function* () {
      const files = yield* qwen()
      const size = Object.keys(files.vocab).length
      const added = (flags: object) => ({ [String(size + 4)]: { content: "<x>", special: false, ...flags } })
      const withFlags = (flags: object) =>
        load({ ...files, config: { ...files.config, added_tokens_decoder: added(flags) } })
      const found = (tokenizer: Tokenizer, text: string) => {
        const ids = tokenizer.encode(text)
        return ids.flatMap((id, i) => (id === size + 4 ? [tokenizer.decode(ids.slice(0, i))] : []))
      }
      const plain = yield* withFlags({ normalized: false })
      assert.deepStrictEqual(found(plain, "a <x> b<x>c"), ["a ", "a <x> b"])
      const left = yield* withFlags({ lstrip: true, normalized: false })
      assert.strictEqual(left.decode(left.encode("a \n <x> b")), "a<x> b")
      const right = yield* withFlags({ rstrip: true })
      assert.strictEqual(right.decode(right.encode("a <x> \t<x>b")), "a <x><x>b")
      const greedy = { "900": { content: " y", normalized: false }, ...added({ rstrip: true, normalized: false }) }
      const eaten = yield* load({ ...files, config: { ...files.config, added_tokens_decoder: greedy } })
      assert.deepStrictEqual(eaten.encode("<x> y y"), [size + 4, ...eaten.encode("y"), 900], "spaces are taken once")
      const word = yield* withFlags({ single_word: true })
      assert.deepStrictEqual(found(word, "a<x> <x>é <x>."), ["a<x> <x>é "])
      assert.isFalse(plain.specialIds.has(size + 4))
      assert.isTrue((yield* withFlags({ special: true })).specialIds.has(size + 4))
      const special = { ...files.config, additional_special_tokens: ["<tool_call>"] }
      assert.isTrue((yield* load({ ...files, config: special })).specialIds.has(size + 3))
      // longest first, leftmost first
      const nested = { "900": { content: "<x>y" }, ...added({}) }
      const both = yield* load({ ...files, config: { ...files.config, added_tokens_decoder: nested } })
      assert.deepStrictEqual(both.encode("<x>y<x>"), [900, size + 4])
    }).pipe(Effect.provide(platform))
  )

  it.effect("GPT-2's own pattern and Unicode forms; ignore_merges takes whole words", () =>
    Effect.gen(function* () {
      const files = yield* qwen()
      const model = files.json.model as Family["json"]
      const gpt2 = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true }
      const plain = yield* load({
        ...files,
        json: { ...files.json, normalizer: { type: "NFKC" }, pre_tokenizer: gpt2 }
      })
      const random = seeded(44)
      for (let round = 0; round < 100; round++) {
        const text = hostileText(random, below(random, 8))
        assert.strictEqual(plain.decode(plain.encode(text)), text.toWellFormed().normalize("NFKC"))
      }
      // U+0085 is white space, unlike in JavaScript: no merge may reach from it into the next word
      const next = byteToChar[0x85]!
      const reaching = { vocab: { ...files.vocab, [`${next}(`]: 2000 }, merges: [[next, "("], ...files.merges] }
      const json = { ...files.json, pre_tokenizer: gpt2, model: { ...model, ...reaching } }
      assert.notInclude((yield* load({ ...files, json })).encode("\u0085("), 2000)
      assert.include(
        (yield* load({ ...files, json })).encode("\u2045("),
        2000,
        "U+2045 is a sign and ends in that byte"
      )
      const longest = Object.keys(files.vocab).reduce((a, b) => (b.length > a.length ? b : a))
      const vocab = { ...files.vocab, [`${longest}${longest}`]: 2000 }
      const whole = (ignore_merges: boolean) =>
        load({ ...files, json: { ...files.json, model: { ...model, vocab, ignore_merges }, pre_tokenizer: gpt2 } })
      const text = plain.decode([files.vocab[longest]!]).repeat(2)
      assert.include((yield* whole(true)).encode(text), 2000)
      assert.notInclude((yield* whole(false)).encode(text), 2000)
    }).pipe(Effect.provide(platform))
  )

  it.effect("parts that are not supported are named", () =>
    Effect.gen(function* () {
      const llama = codeLlama()
      const model = llama.json.model as Family["json"]
      const steps = (llama.json.decoder as { decoders: ReadonlyArray<object> }).decoders
      const decoder = (decoders: ReadonlyArray<object>) => ({ decoder: { type: "Sequence", decoders } })
      const strip = { type: "Strip", content: " ", start: 1, stop: 0 }
      const cases: ReadonlyArray<readonly [Family["json"], string]> = [
        [{ normalizer: { type: "Lowercase" } }, "normalizer"],
        [{ normalizer: { type: "Prepend", prepend: "_" } }, "normalizer"],
        [{ normalizer: null }, "normalizer"],
        [{ pre_tokenizer: { type: "Whitespace" } }, "pre_tokenizer"],
        [{ pre_tokenizer: metaspace("second", true) }, "pre_tokenizer.prepend_scheme"],
        [{ pre_tokenizer: { ...metaspace("first", true), replacement: "_" } }, "pre_tokenizer.replacement"],
        [{ decoder: { type: "Metaspace", replacement: "▁" } }, "decoder"],
        [{ decoder: { type: "ByteFallback" } }, "decoder"],
        [decoder([...steps.slice(0, 2), strip]), "decoder"],
        [decoder([{ type: "Replace", pattern: { String: "_" }, content: " " }, ...steps.slice(1)]), "decoder"],
        [decoder([...steps.slice(0, 3), { ...strip, stop: 1 }]), "decoder.Strip"],
        [decoder([...steps.slice(0, 3), { ...strip, start: -1 }]), "decoder.Strip"],
        [{ model: { ...model, ignore_merges: true } }, "model.ignore_merges"],
        [{ model: { ...model, byte_fallback: false } }, "normalizer"]
      ]
      for (const [changes, option] of cases) {
        const reason = yield* failsWith(load(codeLlama(changes)), "Unsupported")
        assert.strictEqual("option" in reason ? reason.option : "", option, JSON.stringify(changes))
      }
      const bare = { ...llama.config, tokenizer_class: "PreTrainedTokenizerFast" }
      for (const post_processor of [{ type: "RobertaProcessing" }, { type: "TemplateProcessing", single: [] }]) {
        yield* failsWith(load({ json: codeLlama({ post_processor }).json, config: bare }), "Unsupported")
      }
      const bos = yield* load({ ...llama, config: bare })
      assert.deepStrictEqual(bos.encode("x", { addSpecialTokens: true })[0], 1, "by template")
      const split = { type: "Split", pattern: { Regex: "," } }
      const files = yield* qwen()
      const byteLevel = (files.json.pre_tokenizer as { pretokenizers: ReadonlyArray<object> }).pretokenizers[1]!
      for (const part of [
        { ...split, behavior: "Removed" },
        { ...split, behavior: "MergedWithPrevious" },
        { type: "Punctuation" }
      ]) {
        const pre_tokenizer = { type: "Sequence", pretokenizers: [part, byteLevel] }
        yield* failsWith(load({ ...files, json: { ...files.json, pre_tokenizer } }), "Unsupported")
      }
    }).pipe(Effect.provide(platform))
  )

  it.effect("vocabularies and added tokens that contradict themselves are refused", () =>
    Effect.gen(function* () {
      const llama = codeLlama()
      const model = llama.json.model as Family["json"]
      const { "<0x0A>": _, ...noNewline } = llama.vocab
      const added = llama.json.added_tokens as ReadonlyArray<object>
      const size = Object.keys(llama.vocab).length
      const cases: ReadonlyArray<Family["json"]> = [
        { model: { ...model, vocab: noNewline } },
        { added_tokens: [...added, { id: size + 9, content: "<s>" }] },
        { added_tokens: [...added, { id: size + 9, content: "▁<PRE>" }] },
        { added_tokens: [{ id: 1, content: "<bos>" }] }
      ]
      for (const changes of cases) yield* failsWith(load(codeLlama(changes)), "Malformed")
      const lists: ReadonlyArray<object> = [{ "1": { content: "<bos>" } }, { one: { content: "x" } }, { "1": null }]
      for (const added_tokens_decoder of lists) {
        yield* failsWith(load({ ...llama, config: { ...llama.config, added_tokens_decoder } }), "Malformed")
      }
      const files = yield* qwen()
      const space = { id: files.vocab.Ġ, content: "Ġ", special: false }
      const clash = { ...files.json, added_tokens: [...(files.json.added_tokens as ReadonlyArray<object>), space] }
      yield* failsWith(load({ ...files, json: clash }), "Unsupported")
    }).pipe(Effect.provide(platform))
  )

  it.effect("blanks before a line's end are cut off whole; long texts come back", () =>
    Effect.gen(function* () {
      const files = yield* deepSeek()
      const pretokenizers = (files.json.pre_tokenizer as { pretokenizers: ReadonlyArray<object> }).pretokenizers
      const blanks = { type: "Split", pattern: { Regex: "\\s+$" }, behavior: "Isolated", invert: false }
      const json = {
        ...files.json,
        pre_tokenizer: { type: "Sequence", pretokenizers: [blanks, ...pretokenizers.slice(4)] }
      }
      const cutting = yield* load({ ...files, json })
      const random = seeded(45)
      for (let round = 0; round < 200; round++) {
        const parts = ["\n", " ", "  ", "\t", "\u3000", "\n\n", "\r\n", "1", "ab", "="]
        const text = Array.from({ length: below(random, 12) }, () => parts[below(random, parts.length)]!).join("")
        const words = text
          .split(/(\p{White_Space}+(?=\n|(?![\s\S])))/u)
          .flatMap((word) => word.split(/(\p{N})/u))
          .filter((word) => word !== "")
        const slow = words.flatMap((word) => slowBpe([...asBytes(word)], files.merges))
        assert.deepStrictEqual(
          cutting.encode(text),
          slow.map((token) => files.vocab[token]!),
          JSON.stringify(text)
        )
      }
      for (const tokenizer of [cutting, yield* load(yield* qwen()), yield* load(codeLlama())]) {
        const long = [" ", "a", "\u2028", "int x;\n", "🙂"].map((text) => `${text.repeat(6000)}1`)
        for (const text of long) assert.strictEqual(tokenizer.decode(tokenizer.encode(text)), text)
      }
    }).pipe(Effect.provide(platform))
  )
})
