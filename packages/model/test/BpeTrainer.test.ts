import { assert, describe, it } from "@effect/vitest"
import { Effect, FileSystem } from "effect"
import { splitPattern, trainBpe, writeTokenizer } from "../src/BpeTrainer.ts"
import { loadTokenizer } from "../src/Tokenizer.ts"
import { below, failsWith, platform, randomText, seeded, temporaryFolder } from "./support.ts"

const names =
  "buf len idx dst src node count cap head tail width height total limit offset result value key user path".split(" ")
const program = (random: () => number): string => {
  const pick = () => names[below(random, names.length)]! + ["", "_size", "_ptr", "2"][below(random, 4)]!
  const [a, b] = [pick(), pick()]
  return (
    `// copy ${a} into ${b}, return -${1 + below(random, 9)} on error\nint f_${pick()}(char *${a}, int ${b}) {\n` +
    `    if (${b} < 0 || ${b} >= ${below(random, 100_000)}) {\n        return -1;\n    }\n    ${a}[${b}] = '😀';\n    return 0;\n}\n`
  )
}
const corpus = (seed: number, size: number): ReadonlyArray<string> => {
  const random = seeded(seed)
  return Array.from({ length: size }, () => program(random))
}

describe("trainBpe", () => {
  it.effect("fills the vocabulary, whatever the order of texts", () =>
    Effect.gen(function* () {
      const texts = corpus(1, 400)
      const model = yield* trainBpe(texts, { vocabSize: 512 })
      const again = yield* trainBpe([...texts].reverse(), { vocabSize: 512 })
      assert.strictEqual(model.tokens.length, 512)
      assert.strictEqual(new Set(model.tokens).size, 512)
      assert.strictEqual(model.tokens[511], "<|endoftext|>")
      assert.deepStrictEqual(again, model)
      assert.isTrue(model.tokens.includes("ĊĠĠĠĠ"), "newline and indentation are one token")
      assert.isTrue(model.tokens.includes("Ġ{"))
    })
  )

  it.effect("learns the merges that can be counted by hand", () =>
    Effect.gen(function* () {
      // pieces: "aaab" x3, " aaab" x0, "cd" x3, "ce" x2: pairs aa 6, ab 3, cd 3, ce 2
      const texts = ["aaab", "cd", "ce", "aaab", "cd", "ce", "aaab", "cd"]
      const { merges } = yield* trainBpe(texts, { vocabSize: 256 + 1 + 5 })
      assert.deepStrictEqual(merges, [
        ["a", "a"],
        // aa+a, a+b and c+d all stand 3 times: the smaller ids win
        ["a", "b"],
        ["c", "d"],
        ["aa", "ab"],
        ["c", "e"]
      ])
    })
  )

  it.effect("says how far the texts reach and refuses impossible sizes", () =>
    Effect.gen(function* () {
      const reason = yield* failsWith(trainBpe(["ab ab"], { vocabSize: 512 }), "Invalid")
      assert.match(reason.message, /only 1 of the 255/)
      yield* failsWith(trainBpe([], { vocabSize: 100 }), "Invalid")
      yield* failsWith(trainBpe([], { vocabSize: 300, specialTokens: ["<a>", "<a>"] }), "Invalid")
    })
  )

  it.effect(
    "takes 5 MB within 30 s",
    () =>
      Effect.gen(function* () {
        const random = seeded(3)
        const texts: Array<string> = []
        for (let bytes = 0; bytes < 5_000_000; ) {
          const text = program(random) + randomText(random, 20)
          texts.push(text)
          bytes += text.length
        }
        const model = yield* trainBpe(texts, { vocabSize: 512 })
        assert.strictEqual(model.tokens.length, 512)
      }),
    30_000
  )

  it("cuts every text into pieces that join to the text", () => {
    const random = seeded(4)
    for (let round = 0; round < 500; round++) {
      const text = randomText(random, below(random, 60)).toWellFormed()
      assert.strictEqual((text.match(new RegExp(splitPattern, "gu")) ?? []).join(""), text)
    }
  })
})

describe("writeTokenizer", () => {
  it.effect("round trip: the library executes the file as it was trained", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryFolder
      const texts = corpus(5, 300)
      const model = yield* trainBpe(texts, { vocabSize: 512 })
      yield* writeTokenizer(directory, model)
      const tokenizer = yield* loadTokenizer(directory)
      assert.strictEqual(tokenizer.vocabSize, 512)
      assert.strictEqual(tokenizer.eosId, 511)
      assert.strictEqual(tokenizer.padId, 511)
      const rank = new Map(model.merges.map((merge, index) => [merge.join(" "), index]))
      const idOf = new Map(model.tokens.map((token, id) => [token, id]))
      const random = seeded(6)
      for (let round = 0; round < 200; round++) {
        const text = round < 50 ? program(random) : randomText(random, 30)
        assert.deepStrictEqual(tokenizer.encode(text), slowEncode(text.toWellFormed(), rank, idOf, model.tokens), text)
      }
    }).pipe(Effect.provide(platform))
  )

  it.effect("a prompt ending in ` {` tokenises the same with and without its body", () =>
    Effect.gen(function* () {
      const directory = yield* temporaryFolder
      yield* writeTokenizer(directory, yield* trainBpe(corpus(7, 300), { vocabSize: 512 }))
      const tokenizer = yield* loadTokenizer(directory)
      const random = seeded(8)
      for (let round = 0; round < 100; round++) {
        const text = program(random)
        const cut = text.indexOf(" {\n") + 2
        const [prompt, body] = [text.slice(0, cut), text.slice(cut)]
        assert.deepStrictEqual([...tokenizer.encode(prompt), ...tokenizer.encode(body)], tokenizer.encode(text))
        assert.strictEqual(
          tokenizer.tokenBytes(tokenizer.encode(body)[0]!).length,
          5,
          "newline + 4 blanks in one token"
        )
      }
    }).pipe(Effect.provide(platform))
  )

  it.effect("an unwritable place is an Io error and leaves nothing", () =>
    Effect.gen(function* () {
      const fs = yield* FileSystem.FileSystem
      const directory = yield* temporaryFolder
      const model = yield* trainBpe(corpus(9, 50), { vocabSize: 300 })
      yield* fs.writeFileString(`${directory}/file`, "x")
      yield* failsWith(writeTokenizer(`${directory}/file/inside`, model), "Io")
      assert.deepStrictEqual(yield* fs.readDirectory(directory), ["file"])
    }).pipe(Effect.provide(platform))
  )
})

/** The textbook algorithm: join the lowest-ranked neighbouring pair until none is left. */
const slowEncode = (
  text: string,
  rank: ReadonlyMap<string, number>,
  idOf: ReadonlyMap<string, number>,
  tokens: ReadonlyArray<string>
): ReadonlyArray<number> => {
  const bytesInOrder = [...Array(256).keys()].sort((a, b) => (charOf(a) < charOf(b) ? -1 : 1))
  const charByByte = new Map(bytesInOrder.map((byte, id) => [byte, tokens[id]!]))
  const ids: Array<number> = []
  for (const piece of text.match(new RegExp(splitPattern, "gu")) ?? []) {
    let parts = Array.from(new TextEncoder().encode(piece), (byte) => charByByte.get(byte)!)
    for (;;) {
      let best = -1
      let bestRank = Number.POSITIVE_INFINITY
      for (let i = 1; i < parts.length; i++) {
        const r = rank.get(`${parts[i - 1]} ${parts[i]}`) ?? Number.POSITIVE_INFINITY
        if (r < bestRank) [best, bestRank] = [i - 1, r]
      }
      if (best < 0) break
      parts = [...parts.slice(0, best), parts[best]! + parts[best + 1]!, ...parts.slice(best + 2)]
    }
    for (const part of parts) ids.push(idOf.get(part)!)
  }
  return ids
}

/** The byte alphabet, from its definition: printable Latin-1 as is, the rest from U+0100 in byte order. */
const charOf = (byte: number): string => {
  const shown = (b: number) => (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || (b >= 174 && b <= 255)
  if (shown(byte)) return String.fromCharCode(byte)
  let before = 0
  for (let b = 0; b < byte; b++) if (!shown(b)) before++
  return String.fromCharCode(256 + before)
}
