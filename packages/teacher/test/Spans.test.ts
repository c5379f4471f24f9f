import { assert, describe, it } from "@effect/vitest"
import type { Span } from "@srcode/domain"
import { Effect, Schema } from "effect"
import { byteLevelRanges, commentRanges, resolveSpans, tokenMask, utf8Offsets, utf16Offsets } from "../src/index.ts"
import { symbolOfByte } from "../src/internal/byteAlphabet.ts"

const span = (quote: string, occurrence = 0): Span => ({ quote, occurrence, label: "test", cwe: null, why: "test" })
const encoder = new TextEncoder()
const pieces = Schema.Array(
  Schema.Literals([
    "a",
    " ",
    "\n",
    "if (x)",
    "é",
    "ß",
    "漢",
    "🙂",
    "\u{1F468}\u200D\u{1F469}",
    "//",
    "\t",
    '"',
    "e\u0301",
    ";"
  ])
)
/** Cuts the bytes of a text into tokens at every position where `cuts` says so: a byte-level BPE without merges. */
const byteTokens = (text: string, cuts: ReadonlyArray<boolean>): ReadonlyArray<string> => {
  const tokens: Array<string> = []
  let token = ""
  encoder.encode(text).forEach((byte, i) => {
    token += symbolOfByte(byte)
    if (cuts.length === 0 || cuts[i % cuts.length]) {
      tokens.push(token)
      token = ""
    }
  })
  return token === "" ? tokens : [...tokens, token]
}

describe("offset tables", () => {
  it.effect.prop("agree with the encoder on every prefix", { parts: pieces }, ({ parts }) =>
    Effect.sync(() => {
      const text = parts.join("")
      const table = utf8Offsets(text)
      let units = 0
      for (const character of text) {
        assert.strictEqual(table[units], encoder.encode(text.slice(0, units)).length)
        units += character.length
      }
      assert.strictEqual(table[text.length], encoder.encode(text).length)
    })
  )

  it.effect.prop("are inverse to each other at character starts", { parts: pieces }, ({ parts }) =>
    Effect.sync(() => {
      const text = parts.join("")
      const forward = utf8Offsets(text)
      const back = utf16Offsets(text)
      assert.strictEqual(back.length, (forward[text.length] ?? 0) + 1)
      let units = 0
      for (const character of text) {
        const start = forward[units] ?? -1
        const width = encoder.encode(character).length
        for (let b = start; b < start + width; b++) assert.strictEqual(back[b], units)
        units += character.length
      }
    })
  )

  it("count a lone surrogate as the replacement mark", () => {
    const text = "a\ud83db"
    assert.strictEqual(utf8Offsets(text)[3], encoder.encode(text).length)
  })
})

describe("resolveSpans", () => {
  it("takes the asked appearance", () => {
    const text = "free(p); free(p);"
    assert.deepStrictEqual(resolveSpans(text, [span("free(p);", 1)]).ranges, [{ start: 9, end: 17 }])
  })

  it("falls back to a match without whitespace and drops what is not there", () => {
    const result = resolveSpans("if (i<0 ||\n  i >= n)", [span("i < 0 || i >= n"), span("j < 0"), span("  ")])
    assert.strictEqual(result.found, 1)
    assert.strictEqual(result.dropped, 2)
    assert.deepStrictEqual(
      result.ranges.map((r) => "if (i<0 ||\n  i >= n)".slice(r.start, r.end)),
      ["i<0", "||", "i", ">=", "n"]
    )
  })

  it("pays neither comments nor blanks, and knows that a string is no comment", () => {
    const text = 'x = "// no"; // if (i < n)\n/* y */ z;'
    assert.deepStrictEqual(
      commentRanges(text).map((r) => text.slice(r.start, r.end)),
      ["// if (i < n)", "/* y */"]
    )
    const result = resolveSpans(text, [span(text), span("if (i < n)")])
    assert.strictEqual(result.found, 1)
    assert.strictEqual(result.dropped, 1)
    assert.deepStrictEqual(
      result.ranges.map((r) => text.slice(r.start, r.end)),
      ["x", "=", '"//', 'no";', "z;"]
    )
  })

  it("gives bytes, not characters", () => {
    const text = 'puts("🙂漢"); if (!p) return;'
    const [first] = resolveSpans(text, [span("if")]).ranges
    assert.deepStrictEqual(first, { start: 17, end: 19 })
  })

  it.effect.prop(
    "ranges are sorted, disjoint, within the text and on character edges",
    { parts: pieces, from: Schema.Int, length: Schema.Int },
    ({ parts, from, length }) =>
      Effect.sync(() => {
        const text = parts.join("")
        const quote = text.slice(Math.abs(from) % (text.length + 1)).slice(0, Math.abs(length) % 12)
        const { ranges, found, dropped } = resolveSpans(text, [span(quote)])
        assert.strictEqual(found + dropped, 1)
        const bytes = encoder.encode(text)
        let last = -1
        for (const range of ranges) {
          assert.isTrue(range.start > last && range.start < range.end && range.end <= bytes.length)
          last = range.end
          assert.isFalse(/\s/.test(new TextDecoder().decode(bytes.slice(range.start, range.end))))
        }
      })
  )
})

describe("tokens", () => {
  it("an emoji split over two tokens belongs to both, and nothing behind it moves", () => {
    const text = "s🙂 = 1;"
    const bytes = encoder.encode(text)
    const cut = [1, 3, 5, 6, 7, 8, 9, 10]
    const tokens = cut.map((end, i) => [...bytes.slice(cut[i - 1] ?? 0, end)].map(symbolOfByte).join(""))
    const ranges = byteLevelRanges(tokens)
    assert.strictEqual(ranges.at(-1)?.end, bytes.length)
    assert.deepStrictEqual(tokenMask(resolveSpans(text, [span("🙂")]).ranges, ranges), [
      false,
      true,
      true,
      false,
      false,
      false,
      false,
      false
    ])
    assert.deepStrictEqual(tokenMask(resolveSpans(text, [span("1;")]).ranges, ranges), [
      false,
      false,
      false,
      false,
      false,
      false,
      true,
      true
    ])
  })

  it("a token that shares only its leading blanks earns nothing", () => {
    const tokens = ["if", "Ġ(", "x", ")", "ĊĠĠ", "Ġreturn", ";"]
    const text = "if (x)\n   return;"
    const ranges = byteLevelRanges(tokens)
    assert.strictEqual(ranges.at(-1)?.end, text.length)
    assert.deepStrictEqual(tokenMask(resolveSpans(text, [span("(x)\n   ")]).ranges, ranges), [
      false,
      true,
      true,
      true,
      false,
      false,
      false
    ])
  })

  it("counts added tokens by their text", () => {
    assert.deepStrictEqual(
      byteLevelRanges(["a", "<|im_end|>", "漢", "Ġb"]).map((r) => r.end),
      [1, 11, 14, 16]
    )
  })

  it.effect.prop(
    "any cut into tokens marks exactly the tokens that hold a rewarded byte",
    { parts: pieces, cuts: Schema.Array(Schema.Boolean), pick: Schema.Int },
    ({ parts, cuts, pick }) =>
      Effect.sync(() => {
        const text = parts.join("")
        const quote = parts[Math.abs(pick) % Math.max(1, parts.length)] ?? ""
        const { ranges } = resolveSpans(text, [span(quote)])
        const tokens = byteLevelRanges(byteTokens(text, cuts))
        const bytes = encoder.encode(text).length
        assert.strictEqual(tokens.at(-1)?.end ?? 0, bytes)
        const rewarded = new Set(ranges.flatMap((r) => Array.from({ length: r.end - r.start }, (_, i) => r.start + i)))
        const expected = tokens.map((t) =>
          Array.from({ length: t.end - t.start }, (_, i) => t.start + i).some((b) => rewarded.has(b))
        )
        assert.deepStrictEqual(tokenMask(ranges, tokens), expected)
      })
  )
})
