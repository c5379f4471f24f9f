/**
 * A byte-level BPE tokenizer from a Hugging Face folder (`tokenizer.json`, `tokenizer_config.json`), with what rewards
 * need and the library does not give: the bytes of every token and their offsets in the text.
 *
 * Unusual: decoding joins bytes, never token texts, since one character may be split over tokens; offsets are UTF-8
 * byte offsets into `decode(ids)`. With an NFC normalizer (Qwen) that is the normalised text, which may differ from
 * what was encoded, so spans belong to decoded text. After loading everything is synchronous and pure.
 */
import { createHash } from "node:crypto"
import { Tokenizer as Library } from "@huggingface/tokenizers"
import type { ByteRange } from "@srcode/domain"
import { Effect, type FileSystem } from "effect"
import { tokenToBytes } from "./internal/byte-alphabet.ts"
import { isRecord, oneLine, parseJsonObject, readJsonObject, readText } from "./internal/files.ts"
import { checkTokenizerFile } from "./internal/tokenizer-file.ts"
import { ModelError, quote } from "./ModelError.ts"

export interface Tokenizer {
  /**
   * Token ids of a text. Special tokens written out in the text (`<|endoftext|>`) become their ids, as elsewhere.
   * `addSpecialTokens` (default false) runs the post-processor, which may add a beginning-of-sequence token.
   */
  readonly encode: (text: string, options?: { readonly addSpecialTokens?: boolean }) => ReadonlyArray<number>
  /** The joined bytes as text; broken UTF-8 becomes U+FFFD. `skipSpecialTokens` (default false) leaves those out. */
  readonly decode: (ids: Iterable<number>, options?: { readonly skipSpecialTokens?: boolean }) => string
  /** The bytes of one token: text bytes, or the UTF-8 of an added token. Empty for ids that name no token. */
  readonly tokenBytes: (id: number) => Uint8Array
  /** Half-open byte ranges of the tokens in the joined bytes, one per id. */
  readonly byteRanges: (ids: Iterable<number>) => ReadonlyArray<ByteRange>
  /** The id of a token by its stored string (byte alphabet) or, for added tokens, its text. */
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

const operation = "load tokenizer"
const none = new Uint8Array(0)

export const loadTokenizer = Effect.fn("Tokenizer.load")(function* (
  directory: string
): Effect.fn.Return<Tokenizer, ModelError, FileSystem.FileSystem> {
  const file = `${directory}/tokenizer.json`
  const configFile = `${directory}/tokenizer_config.json`
  const text = yield* readText(operation, file)
  const { json, tokens, addedTokens } = yield* parseJsonObject(operation, file, text).pipe(
    Effect.flatMap((raw) => checkTokenizerFile(file, raw))
  )
  const config = yield* readJsonObject(operation, configFile)
  const library = yield* Effect.try({
    try: () => new Library(json, { ...config, additional_special_tokens: null }),
    catch: (cause) =>
      ModelError.unsupported({
        operation,
        file,
        option: "tokenizer.json",
        message: `${file}: ${oneLine(cause)}; this tokenizer needs a part that is not supported`
      })
  })

  const utf8 = new TextEncoder()
  const added = new Map(addedTokens.map((token) => [token.id, token]))
  const ids = new Map<string, number>()
  const bytesOf: Array<Uint8Array> = []
  for (let id = 0; id < tokens.length; id++) {
    const token = tokens[id]
    bytesOf.push(
      token === undefined ? none : added.has(id) ? utf8.encode(token) : (tokenToBytes(token) ?? utf8.encode(token))
    )
    if (token !== undefined) ids.set(token, id)
  }
  const specialIds = new Set(addedTokens.filter((token) => token.special).map((token) => token.id))

  const namedId = (key: string): number | undefined => {
    const name = tokenText(config[key])
    return name === null ? undefined : ids.get(name)
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
  const tokenBytes = (id: number): Uint8Array => bytesOf[id] ?? none

  return {
    encode: (input, options) => {
      // lone surrogates have no UTF-8; replaced here as TextEncoder would
      const wellFormed = input.toWellFormed()
      return library.encode(wellFormed, { add_special_tokens: options?.addSpecialTokens ?? false }).ids
    },
    decode: (input, options) => {
      const kept = options?.skipSpecialTokens === true ? [...input].filter((id) => !specialIds.has(id)) : [...input]
      const parts = kept.map(tokenBytes)
      const joined = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0))
      let at = 0
      for (const part of parts) {
        joined.set(part, at)
        at += part.length
      }
      return new TextDecoder("utf-8", { ignoreBOM: true }).decode(joined)
    },
    tokenBytes,
    byteRanges: (input) => {
      let start = 0
      return [...input].map((id) => {
        const end = start + tokenBytes(id).length
        const range = { start, end }
        start = end
        return range
      })
    },
    tokenId: (token) => ids.get(token),
    eosId,
    padId: namedId("pad_token") ?? null,
    bosId: namedId("bos_token") ?? null,
    specialIds,
    vocabSize: tokens.length,
    hash: createHash("sha256").update(text).digest("hex")
  }
})

/** A token in `tokenizer_config.json` is its text or an object with `content`. */
export const tokenText = (value: unknown): string | null =>
  typeof value === "string" ? value : isRecord(value) && typeof value.content === "string" ? value.content : null
