/**
 * Small tokenizers with the structure of the real families, trained here, and slow oracles that share no code with the
 * package: BPE by repeated search for the lowest rank, and pre-tokenizers as plain regular expressions.
 */
import { Effect, FileSystem } from "effect"
import { encodeTokenizer, trainBpe } from "../src/BpeTrainer.ts"
import { loadTokenizer } from "../src/Tokenizer.ts"
import { below, randomText, seeded, temporaryFolder } from "./support.ts"

export type Json = { readonly [key: string]: unknown }
export type Merge = readonly [string, string]

export interface Family {
  readonly json: Json
  readonly config: Json
  readonly vocab: Readonly<Record<string, number>>
  readonly merges: ReadonlyArray<Merge>
}

const corpus: ReadonlyArray<string> = (() => {
  const random = seeded(31)
  const code = [
    "int main(int argc, char *argv[]) {\n    char buf[64];\n    strcpy(buf, argv[1]);\n    return 0;\n}\n",
    "def read(path):\n    with open(path) as file:\n        return file.read()\n",
    "for (size_t i = 0; i < n; i++) {\n        total += values[i] * 1024;\n    }\n",
    "Größe, naïve café; 中文字符 and 한글 👍🏽 e\u0301\r\n\t\tif (x == 0x1F) return;\r\n"
  ]
  return [...code, ...code, ...code, ...Array.from({ length: 20 }, () => randomText(random, 30))]
})()

const special = (id: number, content: string, extra: Json = {}): Json => ({
  id,
  content,
  single_word: false,
  lstrip: false,
  rstrip: false,
  normalized: false,
  special: true,
  ...extra
})

const isolated = (Regex: string): Json => ({ type: "Split", pattern: { Regex }, behavior: "Isolated", invert: false })
const byteLevel: Json = { type: "ByteLevel", add_prefix_space: false, trim_offsets: false, use_regex: false }

const byteLevelFamily = Effect.fnUntraced(function* (without: ReadonlySet<string>) {
  const model = yield* trainBpe(corpus, { vocabSize: 420 })
  const kept = Object.entries((encodeTokenizer(model).model as { vocab: Record<string, number> }).vocab)
    .map(([token]) => token)
    .filter((token) => !without.has(token))
  return { vocab: Object.fromEntries(kept.map((token, id) => [token, id])), merges: model.merges, size: kept.length }
})

const qwenPattern =
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

/** Qwen2.5 and Qwen3: composed to NFC, one Split, merges as pairs or as strings. */
export const qwen = Effect.fnUntraced(function* () {
  const { vocab, merges, size } = yield* byteLevelFamily(new Set())
  const names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
  const family: Family = {
    vocab,
    merges,
    json: {
      version: "1.0",
      truncation: null,
      padding: null,
      added_tokens: [
        ...names.map((name, i) => special(size + i, name)),
        special(size + 3, "<tool_call>", { special: false })
      ],
      normalizer: { type: "NFC" },
      pre_tokenizer: { type: "Sequence", pretokenizers: [isolated(qwenPattern), byteLevel] },
      post_processor: { ...byteLevel, trim_offsets: true },
      decoder: byteLevel,
      model: {
        type: "BPE",
        dropout: null,
        unk_token: null,
        continuing_subword_prefix: "",
        end_of_word_suffix: "",
        fuse_unk: false,
        byte_fallback: false,
        ignore_merges: false,
        vocab,
        merges: merges.map(([left, right]) => `${left} ${right}`)
      }
    },
    config: {
      add_bos_token: false,
      bos_token: null,
      eos_token: "<|im_end|>",
      pad_token: "<|endoftext|>",
      unk_token: null,
      tokenizer_class: "Qwen2Tokenizer"
    }
  }
  return family
})

/** The 13 bytes that UTF-8 never uses, as byte-level characters: DeepSeek has them only as added tokens. */
export const unusedBytes = [..."õ÷ÁýÀÿøúþüùöû"]

/** DeepSeek-Coder: five pre-tokenizers, bytes missing from the vocabulary, a Llama class that adds the first token. */
export const deepSeek = Effect.fnUntraced(function* () {
  const { vocab, merges, size } = yield* byteLevelFamily(new Set(unusedBytes))
  const begin = size + unusedBytes.length
  const family: Family = {
    vocab,
    merges,
    json: {
      version: "1.0",
      added_tokens: [
        ...unusedBytes.map((text, i) => special(size + i, text, { normalized: true, special: false })),
        special(begin, "<｜begin▁of▁sentence｜>", { normalized: true }),
        special(begin + 1, "<｜end▁of▁sentence｜>", { normalized: true }),
        special(begin + 2, "<|EOT|>", { normalized: true, special: false })
      ],
      normalizer: { type: "Sequence", normalizers: [] },
      pre_tokenizer: {
        type: "Sequence",
        pretokenizers: [
          isolated("[\r\n]"),
          isolated("\\s?\\p{L}+"),
          isolated("\\s?\\p{P}+"),
          isolated("[一-龥ࠀ-一가-퟿]+"),
          { type: "Digits", individual_digits: true },
          { ...byteLevel, trim_offsets: true }
        ]
      },
      post_processor: { type: "ByteLevel", add_prefix_space: true, trim_offsets: false, use_regex: true },
      decoder: { type: "ByteLevel", add_prefix_space: true, trim_offsets: true, use_regex: true },
      model: { type: "BPE", dropout: null, unk_token: null, fuse_unk: false, byte_fallback: false, vocab, merges }
    },
    config: {
      add_bos_token: true,
      add_eos_token: false,
      bos_token: { __type: "AddedToken", content: "<｜begin▁of▁sentence｜>" },
      eos_token: { __type: "AddedToken", content: "<|EOT|>" },
      pad_token: { __type: "AddedToken", content: "<｜end▁of▁sentence｜>" },
      unk_token: null,
      tokenizer_class: "LlamaTokenizerFast"
    }
  }
  return family
})

const mark = "▁"

/** Character-level BPE over the corpus with spaces as ▁: the most frequent pair of neighbours becomes a token. */
const sentencePieceVocabulary = (size: number) => {
  const texts = corpus.map((text) => [...(mark + text.replaceAll(" ", mark))])
  const frequent = new Map<string, number>()
  for (const text of texts) for (const char of text) frequent.set(char, (frequent.get(char) ?? 0) + 1)
  const tokens = ["<unk>", "<s>", "</s>"]
  for (let byte = 0; byte < 256; byte++) tokens.push(`<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`)
  const characters = [...frequent].filter(([char, count]) => count > 3 && char !== "\n" && char !== "\r")
  tokens.push(...characters.map(([char]) => char))
  const known = new Set(tokens)
  const merges: Array<Merge> = []
  let words = texts
  while (tokens.length < size) {
    const pairs = new Map<string, { readonly pair: Merge; count: number }>()
    for (const word of words) {
      for (let i = 0; i + 1 < word.length; i++) {
        const [left, right] = [word[i]!, word[i + 1]!]
        if (!known.has(left) || !known.has(right)) continue
        const key = JSON.stringify([left, right])
        const entry = pairs.get(key)
        if (entry === undefined) pairs.set(key, { pair: [left, right], count: 1 })
        else entry.count++
      }
    }
    const best = [...pairs.values()].reduce((a, b) => (b.count > a.count ? b : a))
    const joined = best.pair.join("")
    if (!known.has(joined)) tokens.push(joined)
    known.add(joined)
    merges.push(best.pair)
    words = words.map((word) => joinPairs(word, best.pair))
  }
  return { tokens, merges }
}

const joinPairs = (word: ReadonlyArray<string>, [left, right]: Merge): Array<string> => {
  const joined: Array<string> = []
  for (let i = 0; i < word.length; i++) {
    if (word[i] === left && word[i + 1] === right) joined.push(left + word[++i]!)
    else joined.push(word[i]!)
  }
  return joined
}

const sentencePieceTokens = sentencePieceVocabulary(500)

export const prependNormalizer: Json = {
  type: "Sequence",
  normalizers: [
    { type: "Prepend", prepend: mark },
    { type: "Replace", pattern: { String: " " }, content: mark }
  ]
}

export const metaspace = (prepend_scheme: string, split: boolean): Json => ({
  type: "Metaspace",
  replacement: mark,
  prepend_scheme,
  split
})

/** CodeLlama: byte fallback, spaces as ▁, a beginning-of-sequence token by template. `changes` go into the file. */
export const codeLlama = (changes: Json = {}): Family => {
  const { tokens, merges } = sentencePieceTokens
  const vocab = Object.fromEntries(tokens.map((token, id) => [token, id]))
  const size = tokens.length
  const bos = { SpecialToken: { id: "<s>", type_id: 0 } }
  return {
    vocab,
    merges,
    json: {
      version: "1.0",
      truncation: null,
      padding: null,
      added_tokens: [
        special(0, "<unk>"),
        special(1, "<s>"),
        special(2, "</s>"),
        ...["▁<PRE>", "▁<SUF>", "▁<MID>"].map((name, i) => special(size + i, name)),
        special(size + 3, "[INST]", { special: false, normalized: true })
      ],
      normalizer: prependNormalizer,
      pre_tokenizer: null,
      post_processor: {
        type: "TemplateProcessing",
        single: [bos, { Sequence: { id: "A", type_id: 0 } }],
        pair: [bos, { Sequence: { id: "A", type_id: 0 } }, bos, { Sequence: { id: "B", type_id: 1 } }],
        special_tokens: { "<s>": { id: "<s>", ids: [1], tokens: ["<s>"] } }
      },
      decoder: {
        type: "Sequence",
        decoders: [
          { type: "Replace", pattern: { String: mark }, content: " " },
          { type: "ByteFallback" },
          { type: "Fuse" },
          { type: "Strip", content: " ", start: 1, stop: 0 }
        ]
      },
      model: {
        type: "BPE",
        dropout: null,
        unk_token: "<unk>",
        continuing_subword_prefix: null,
        end_of_word_suffix: null,
        fuse_unk: true,
        byte_fallback: true,
        ignore_merges: false,
        vocab,
        merges
      },
      ...changes
    },
    config: {
      add_bos_token: true,
      add_eos_token: false,
      bos_token: "<s>",
      eos_token: "</s>",
      pad_token: null,
      unk_token: "<unk>",
      tokenizer_class: "CodeLlamaTokenizer"
    }
  }
}

/** Writes both files into a new folder and loads it. */
export const load = Effect.fnUntraced(function* (family: Pick<Family, "json" | "config">) {
  const fs = yield* FileSystem.FileSystem
  const directory = yield* Effect.orDie(temporaryFolder)
  yield* fs.writeFileString(`${directory}/tokenizer.json`, JSON.stringify(family.json)).pipe(Effect.orDie)
  yield* fs.writeFileString(`${directory}/tokenizer_config.json`, JSON.stringify(family.config)).pipe(Effect.orDie)
  return yield* loadTokenizer(directory)
})

/** BPE by definition: join the leftmost pair of lowest rank until there is none. */
export const slowBpe = (symbols: ReadonlyArray<string>, merges: ReadonlyArray<Merge>): ReadonlyArray<string> => {
  let word = [...symbols]
  for (;;) {
    const best = merges.find(([left, right]) => word.some((symbol, i) => symbol === left && word[i + 1] === right))
    if (best === undefined) return word
    const at = word.findIndex((symbol, i) => symbol === best[0] && word[i + 1] === best[1])
    word = [...word.slice(0, at), best.join(""), ...word.slice(at + 2)]
  }
}

export const slowQwenWords = (text: string): ReadonlyArray<string> =>
  text
    .normalize("NFC")
    .match(
      /'(?:[sStTmMdD]|[rR][eE]|[vV][eE]|[lL][lL])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\p{White_Space}\p{L}\p{N}]+[\r\n]*|\p{White_Space}*[\r\n]+|\p{White_Space}+(?!\P{White_Space})|\p{White_Space}+/gu
    ) ?? []

export const slowDeepSeekWords = (text: string): ReadonlyArray<string> =>
  [
    /([\r\n])/u,
    /(\p{White_Space}?\p{L}+)/u,
    /(\p{White_Space}?\p{P}+)/u,
    /([\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+)/u,
    /(\p{N})/u
  ].reduce((words, pattern) => words.flatMap((word) => word.split(pattern).filter((part) => part !== "")), [text])

/** Random texts with what breaks tokenizers: lone surrogates, NUL, control characters, runs, ▁, look-alikes of tokens. */
export const hostileText = (random: () => number, parts: number): string => {
  const odd = ["\0", "\x7f", "\u001b[0m", mark, "▁▁", "\ud83d", "\udc00", "<0x0A>", "<0x", "[INS", "</", "\u2028", "ﬁ"]
  const runs = [" ", "\n", "\t", "\r\n", "\u3000", "a", "=", "🙂"]
  return Array.from({ length: parts }, () => {
    const kind = below(random, 5)
    if (kind === 0) return odd[below(random, odd.length)]!
    if (kind === 1) return runs[below(random, runs.length)]!.repeat(1 + below(random, 40))
    return randomText(random, 1 + below(random, 4))
  }).join("")
}
