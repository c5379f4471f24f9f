/**
 * A BPE tokenizer from a Hugging Face folder (`tokenizer.json`, `tokenizer_config.json`), byte-level (Qwen, DeepSeek,
 * GPT-2, Llama 3) or SentencePiece-style with byte fallback (Llama 2, CodeLlama), with what rewards need and the library
 * does not give: the bytes of every token and their offsets in the text.
 *
 * Unusual: decoding joins bytes, never token texts, since one character may be split over tokens; offsets are UTF-8
 * byte offsets into `decode(ids)`. That is the normalised text, which may differ from what was encoded (Qwen composes
 * to NFC; SentencePiece cannot tell U+2581 from a space), so spans belong to decoded text. Where transformers decodes
 * worse, this does not follow: added tokens are always their text (DeepSeek's `ö` is one), and a run of byte tokens
 * that is partly broken loses only the broken bytes. After loading everything is synchronous and pure.
 *
 * SentencePiece files put a space before a text in encoding and take one away in decoding, so the first token's bytes
 * may begin with a space that `decode(ids)` and `byteRanges(ids)` leave out: its range is then one byte shorter than
 * `tokenBytes`, or empty. Tokens that go on from others (a completion after its prompt) are not the start of a text;
 * with `continuation` nothing is put in front or taken away, for both directions.
 */
import { createHash } from "node:crypto"
import { Tokenizer as Library } from "@huggingface/tokenizers"
import type { ByteRange } from "@srcode/domain"
import { Effect, type FileSystem } from "effect"
import { makeSplitter, tokenText } from "./internal/added-tokens.ts"
import { oneLine, parseJsonObject, readJsonObject, readText } from "./internal/files.ts"
import { makeCutter } from "./internal/merge-boundaries.ts"
import { checkTokenizerFile } from "./internal/tokenizer-file.ts"
import type { Place, TokenizerKind } from "./internal/tokenizer-pipeline.ts"
import { ModelError, quote } from "./ModelError.ts"

export { tokenText } from "./internal/added-tokens.ts"

export interface EncodeOptions {
  /**
   * Put the tokens around the text that the model expects there, such as a beginning-of-sequence token (default false).
   * One that the text already begins with is not added again. Rendered chat templates bring their own: leave it false.
   */
  readonly addSpecialTokens?: boolean
  /** The text goes on from other tokens: SentencePiece puts no space before it (default false). */
  readonly continuation?: boolean
}

export interface DecodeOptions {
  /** Leave special tokens out (default false). */
  readonly skipSpecialTokens?: boolean
  /** The tokens go on from others: no leading space is taken away (default false). */
  readonly continuation?: boolean
}

export interface Tokenizer {
  readonly kind: TokenizerKind
  /** Token ids of a text. Special tokens written out in the text (`<|endoftext|>`) become their ids, as elsewhere. */
  readonly encode: (text: string, options?: EncodeOptions) => ReadonlyArray<number>
  /** The joined bytes as text; broken UTF-8 becomes U+FFFD. */
  readonly decode: (ids: Iterable<number>, options?: DecodeOptions) => string
  /** The bytes of one token: text bytes, or the UTF-8 of an added token. Empty for ids that name no token. */
  readonly tokenBytes: (id: number) => Uint8Array
  /** Half-open byte ranges of the tokens in `decode(ids)` (as far as it is valid UTF-8), one per id. */
  readonly byteRanges: (
    ids: Iterable<number>,
    options?: Pick<DecodeOptions, "continuation">
  ) => ReadonlyArray<ByteRange>
  /** How many leading spaces decoding takes away: 1 for most SentencePiece files, else 0. */
  readonly strippedSpaces: number
  /** The id of a token by its stored string (byte alphabet, or with U+2581 for spaces) or, for added tokens, its text. */
  readonly tokenId: (token: string) => number | undefined
  readonly eosId: number
  readonly padId: number | null
  readonly bosId: number | null
  readonly specialIds: ReadonlySet<number>
  /** Largest id + 1. A model's `vocab_size` may be larger (padding); those ids have no bytes. */
  readonly vocabSize: number
  /** SHA-256 of `tokenizer.json`, to mark what was tokenised with it. */
  readonly hash: string
}

/** A prompt as the model reads it, beginning with the token that begins a text where the tokenizer has one. */
export const promptIds = (tokenizer: Tokenizer, prompt: string): ReadonlyArray<number> =>
  tokenizer.encode(prompt, { addSpecialTokens: true })

/** What goes on from a prompt, so that the tokens of both decode to both texts joined. */
export const completionIds = (tokenizer: Tokenizer, completion: string): ReadonlyArray<number> =>
  tokenizer.encode(completion, { continuation: true })

const operation = "load tokenizer"
const none = new Uint8Array(0)
const spaceByte = 0x20

export const loadTokenizer = Effect.fn("Tokenizer.load")(function* (
  directory: string
): Effect.fn.Return<Tokenizer, ModelError, FileSystem.FileSystem> {
  const file = `${directory}/tokenizer.json`
  const configFile = `${directory}/tokenizer_config.json`
  const text = yield* readText(operation, file)
  const raw = yield* parseJsonObject(operation, file, text)
  const config = yield* readJsonObject(operation, configFile)
  const checked = yield* checkTokenizerFile(file, raw, configFile, config)
  const { pipeline, tokens, addedTokens, prefixIds, suffixIds } = checked
  const { strippedSpaces } = pipeline
  const library = yield* Effect.try({
    try: () =>
      new Library(
        {
          normalizer: null,
          pre_tokenizer: pipeline.preTokenizer,
          post_processor: null,
          decoder: null,
          added_tokens: [],
          model: checked.model
        },
        {}
      ),
    catch: (cause) =>
      ModelError.unsupported({
        operation,
        file,
        option: "tokenizer.json",
        message: `${file}: ${oneLine(cause)}; this tokenizer needs a part that is not supported`
      })
  })

  const added = new Map(addedTokens.map((token) => [token.content, token.id]))
  const addedIds = new Set(added.values())
  const specialIds = new Set(addedTokens.filter((token) => token.special).map((token) => token.id))
  const tokenId = (token: string): number | undefined => added.get(token) ?? library.token_to_id(token)

  const namedId = (key: string): number | undefined => {
    const name = tokenText(config[key])
    return name === null ? undefined : tokenId(name)
  }
  const eosId = namedId("eos_token")
  if (eosId === undefined) {
    const name = tokenText(config.eos_token)
    return yield* ModelError.missing({
      operation,
      file: configFile,
      message:
        name === null
          ? `${configFile} names no eos_token; add the token that ends a text`
          : `${configFile}: eos_token ${quote(name)} is not in tokenizer.json; take both files from the same model`
    })
  }

  const splitText = makeSplitter(
    addedTokens.filter((token) => !token.normalized),
    (token) => token.content
  )
  const splitNormalized = makeSplitter(
    addedTokens.filter((token) => token.normalized),
    (token) => pipeline.normalize(token.content, "start")
  )
  const cut = pipeline.kind === "sentencepiece" ? makeCutter(checked.merges) : (word: string) => [word]
  const encode = (input: string, options: EncodeOptions = {}): ReadonlyArray<number> => {
    const ids: Array<number> = []
    // lone surrogates have no UTF-8; replaced here as TextEncoder would
    for (const outer of splitText(input.toWellFormed())) {
      if (outer.id !== null) {
        ids.push(outer.id)
        continue
      }
      const place: Place = outer.start > 0 ? "after" : options.continuation === true ? "continued" : "start"
      for (const inner of splitNormalized(pipeline.normalize(outer.text, place))) {
        if (inner.id !== null) {
          ids.push(inner.id)
          continue
        }
        for (const word of pipeline.words(inner.text, inner.start > 0 ? "after" : place).flatMap(cut)) {
          for (const id of library.encode(word, { add_special_tokens: false }).ids) ids.push(id)
        }
      }
    }
    if (options.addSpecialTokens !== true) return ids
    const begun = prefixIds.every((id, i) => ids[i] === id)
    return [...(begun ? [] : prefixIds), ...ids, ...suffixIds]
  }

  // filled when first asked for: most of a large vocabulary never is
  const bytesOf: Array<Uint8Array | undefined> = []
  const tokenBytes = (id: number): Uint8Array => {
    const known = bytesOf[id]
    if (known !== undefined) return known
    const token = tokens[id]
    if (token === undefined) return none
    const bytes = pipeline.bytes(token, addedIds.has(id))
    bytesOf[id] = bytes
    return bytes
  }
  const decode = (input: Iterable<number>, options: DecodeOptions = {}): string => {
    const joined = join(options.skipSpecialTokens === true ? without(input, specialIds) : input, tokenBytes)
    const stripped = options.continuation === true ? 0 : leadingSpaces(joined, strippedSpaces)
    return new TextDecoder("utf-8", { ignoreBOM: true }).decode(joined.subarray(stripped))
  }
  const byteRanges = (input: Iterable<number>, options: DecodeOptions = {}): ReadonlyArray<ByteRange> => {
    let left = options.continuation === true ? 0 : strippedSpaces
    let start = 0
    return Array.from(input, (id) => {
      const bytes = tokenBytes(id)
      const stripped = leadingSpaces(bytes, left)
      left = stripped < bytes.length ? 0 : left - stripped
      const end = start + bytes.length - stripped
      const range = { start, end }
      start = end
      return range
    })
  }

  const tokenizer: Tokenizer = {
    kind: pipeline.kind,
    encode,
    decode,
    tokenBytes,
    byteRanges,
    strippedSpaces,
    tokenId,
    eosId,
    padId: namedId("pad_token") ?? null,
    bosId: namedId("bos_token") ?? null,
    specialIds,
    vocabSize: tokens.length,
    hash: createHash("sha256").update(text).digest("hex")
  }
  return tokenizer
})

const without = (ids: Iterable<number>, left: ReadonlySet<number>): ReadonlyArray<number> =>
  Array.from(ids).filter((id) => !left.has(id))

const leadingSpaces = (bytes: Uint8Array, most: number): number => {
  let count = 0
  while (count < most && bytes[count] === spaceByte) count++
  return count
}

const join = (ids: Iterable<number>, bytesOf: (id: number) => Uint8Array): Uint8Array => {
  const parts = Array.from(ids, bytesOf)
  const joined = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0))
  let at = 0
  for (const part of parts) {
    joined.set(part, at)
    at += part.length
  }
  return joined
}
