/**
 * What `tokenizer.json` and `tokenizer_config.json` must be before the tokenizer library sees them: BPE, either
 * byte-level or SentencePiece with byte fallback, with a token for every byte of UTF-8 and no option that would make
 * token bytes differ from text bytes. The library itself would drop text silently or throw on some of these. As in
 * transformers, the configuration's `added_tokens_decoder` wins over the tokenizer file, and the class decides on the
 * beginning-of-sequence token. Plain loops, since vocabularies have 150,000 entries.
 */
import { Effect } from "effect"
import { ModelError, quote } from "../ModelError.ts"
import { type AddedToken, tokenText } from "./added-tokens.ts"
import { byteToChar, tokenToBytes } from "./byte-alphabet.ts"
import { isRecord } from "./files.ts"
import { readAffixes } from "./post-processor.ts"
import { byteLevelPipeline, type Pipeline, sentencePiecePipeline } from "./tokenizer-pipeline.ts"

export interface TokenizerFile {
  readonly pipeline: Pipeline
  /** Vocabulary and merges for the library. */
  readonly model: { readonly [key: string]: unknown }
  readonly merges: ReadonlyArray<readonly [string, string]>
  /** Token strings by id; added tokens included; holes are `undefined`. */
  readonly tokens: ReadonlyArray<string | undefined>
  readonly addedTokens: ReadonlyArray<AddedToken>
  /** What `addSpecialTokens` puts around a text. */
  readonly prefixIds: ReadonlyArray<number>
  readonly suffixIds: ReadonlyArray<number>
}

type Json = { readonly [key: string]: unknown }

const operation = "load tokenizer"
const maxTokenId = 10_000_000

/** These bytes never occur in UTF-8; DeepSeek's vocabularies have no token for them. */
const inUtf8 = (byte: number): boolean => byte < 0xc0 || (byte > 0xc1 && byte < 0xf5)

const isTokenId = (id: unknown): id is number =>
  typeof id === "number" && Number.isInteger(id) && id >= 0 && id <= maxTokenId

export const checkTokenizerFile = Effect.fnUntraced(function* (
  file: string,
  raw: Json,
  configFile: string,
  config: Json
) {
  const malformed = (what: string, where = file) =>
    ModelError.malformed({ operation, file: where, message: `${where}: ${what}; fetch the tokenizer again` })
  const unsupported = (option: string, what: string) =>
    ModelError.unsupported({
      operation,
      file,
      option,
      message:
        `${file}: ${what.slice(0, 200)} (${option}); supported are byte-level BPE (Qwen, DeepSeek, GPT-2, Llama 3) ` +
        "and SentencePiece BPE with byte fallback (Llama 2, CodeLlama)"
    })

  const model = raw.model
  if (!isRecord(model)) return yield* malformed("it has no model")
  if ((model.type ?? "BPE") !== "BPE") {
    return yield* unsupported("model.type", `model type ${quote(String(model.type))}`)
  }
  for (const option of ["continuing_subword_prefix", "end_of_word_suffix"]) {
    if (model[option] != null && model[option] !== "") return yield* unsupported(`model.${option}`, "marked subwords")
  }
  const byteFallback = model.byte_fallback === true
  if (byteFallback && model.ignore_merges === true) {
    return yield* unsupported("model.ignore_merges", "whole words without merges together with byte fallback")
  }
  const pipeline = yield* byteFallback ? sentencePiecePipeline(raw, unsupported) : byteLevelPipeline(raw, unsupported)

  const vocab = model.vocab
  if (!isRecord(vocab)) return yield* malformed("model.vocab is not an object")
  const tokens: Array<string | undefined> = []
  for (const [token, id] of Object.entries(vocab)) {
    if (!isTokenId(id)) return yield* malformed(`token ${quote(token)} has the id ${quote(String(id))}`)
    if (tokens[id] !== undefined) {
      return yield* malformed(`tokens ${quote(tokens[id])} and ${quote(token)} share id ${id}`)
    }
    tokens[id] = token
  }
  for (let byte = 0; byte < 256; byte++) {
    const hex = byte.toString(16).toUpperCase().padStart(2, "0")
    if (inUtf8(byte) && !Object.hasOwn(vocab, byteFallback ? `<0x${hex}>` : byteToChar[byte]!)) {
      return yield* malformed(`the vocabulary lacks a token for byte ${byte}, so some text has no tokens`)
    }
  }

  if (!Array.isArray(model.merges)) return yield* malformed("model.merges is not a list")
  const merges: Array<readonly [string, string]> = []
  for (let rank = 0; rank < model.merges.length; rank++) {
    const merge: unknown = model.merges[rank]
    const pair: ReadonlyArray<unknown> =
      typeof merge === "string" ? merge.split(" ") : Array.isArray(merge) ? merge : []
    const [left, right] = pair
    if (
      pair.length !== 2 ||
      typeof left !== "string" ||
      typeof right !== "string" ||
      !Object.hasOwn(vocab, left) ||
      !Object.hasOwn(vocab, right) ||
      !Object.hasOwn(vocab, left + right)
    ) {
      return yield* malformed(
        `merge ${rank} (${quote(JSON.stringify(merge) ?? "undefined")}) does not join two tokens of the vocabulary`
      )
    }
    merges.push([left, right])
  }

  const added = new Map<number, AddedToken>()
  const add = Effect.fnUntraced(function* (where: string, id: unknown, entry: unknown) {
    if (!isRecord(entry) || !isTokenId(id)) return yield* malformed("an added token has no valid id", where)
    const content = entry.content
    if (typeof content !== "string" || content === "") {
      return yield* malformed(`added token ${id} has no content`, where)
    }
    if ((tokens[id] ?? content) !== content) {
      return yield* malformed(`added token ${quote(content)} has the id ${id} of ${quote(tokens[id] ?? "")}`, where)
    }
    const other = Object.hasOwn(vocab, content) ? vocab[content] : idOf.get(content)
    if (other !== undefined && other !== id) {
      return yield* malformed(`added token ${quote(content)} has the ids ${id} and ${String(other)}`, where)
    }
    const meant = byteFallback || !Object.hasOwn(vocab, content) ? undefined : tokenToBytes(content)
    if (meant?.every(inUtf8) === true && new TextDecoder().decode(meant) !== content) {
      return yield* unsupported("added_tokens", `added token ${quote(content)} also stands for bytes of text`)
    }
    tokens[id] = content
    idOf.set(content, id)
    const special = entry.special === true
    added.set(id, {
      id,
      content,
      special,
      normalized: entry.normalized === undefined ? !special : entry.normalized === true,
      lstrip: entry.lstrip === true,
      rstrip: entry.rstrip === true,
      singleWord: entry.single_word === true
    })
  })
  const idOf = new Map<string, number>()
  const listed = raw.added_tokens ?? []
  if (!Array.isArray(listed)) return yield* malformed("added_tokens is not a list")
  for (const entry of listed) yield* add(file, isRecord(entry) ? entry.id : undefined, entry)
  if (isRecord(config.added_tokens_decoder)) {
    for (const [id, entry] of Object.entries(config.added_tokens_decoder)) yield* add(configFile, Number(id), entry)
  }

  // tokens with a role are special, whatever the lists say
  const extra = Array.isArray(config.additional_special_tokens) ? config.additional_special_tokens : []
  for (const role of [config.bos_token, config.eos_token, config.pad_token, config.unk_token, ...extra]) {
    const content = tokenText(role)
    const id = content === null ? undefined : Object.hasOwn(vocab, content) ? vocab[content] : idOf.get(content)
    if (content === null || !isTokenId(id)) continue
    const known = added.get(id)
    if (known === undefined) yield* add(configFile, id, { content, special: true })
    else added.set(id, { ...known, special: true })
  }

  const idOfToken = (token: string): number | undefined => {
    const id = Object.hasOwn(vocab, token) ? vocab[token] : idOf.get(token)
    return isTokenId(id) ? id : undefined
  }
  const affixes = yield* readAffixes(raw.post_processor, config, idOfToken, unsupported)
  const checked: TokenizerFile = {
    pipeline,
    model: { ...model, type: "BPE", merges, dropout: null },
    merges,
    tokens,
    addedTokens: [...added.values()],
    ...affixes
  }
  return checked
})
