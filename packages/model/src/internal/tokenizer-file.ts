/**
 * What a `tokenizer.json` must be before the tokenizer library sees it: byte-level BPE, with every byte in the
 * vocabulary and no option that would make token bytes differ from text bytes. The library itself would drop text
 * silently or throw on some of these. Plain loops, since vocabularies have 150,000 entries.
 */
import { Effect } from "effect"
import { ModelError, quote } from "../ModelError.ts"
import { byteToChar } from "./byte-alphabet.ts"
import { isRecord } from "./files.ts"

export interface AddedToken {
  readonly id: number
  readonly content: string
  readonly special: boolean
}

export interface TokenizerFile {
  /** The parsed JSON with absent optional parts set to null, as the library wants it. */
  readonly json: { readonly [key: string]: unknown }
  /** Token strings by id; added tokens included; holes are `undefined`. */
  readonly tokens: ReadonlyArray<string | undefined>
  readonly addedTokens: ReadonlyArray<AddedToken>
}

const operation = "load tokenizer"
const maxTokenId = 10_000_000

export const checkTokenizerFile = Effect.fnUntraced(function* (file: string, raw: { readonly [key: string]: unknown }) {
  const malformed = (what: string) =>
    ModelError.malformed({ operation, file, message: `${file}: ${what}; fetch the tokenizer again` })
  const unsupported = (option: string, what: string) =>
    ModelError.unsupported({
      operation,
      file,
      option,
      message: `${file}: ${what} (${option}); only byte-level BPE tokenizers (Qwen, GPT-2, Llama 3 style) are supported`
    })

  const model = raw.model
  if (!isRecord(model)) return yield* malformed("it has no model")
  if ((model.type ?? "BPE") !== "BPE")
    return yield* unsupported("model.type", `model type ${quote(String(model.type))}`)
  if (model.byte_fallback === true) return yield* unsupported("model.byte_fallback", "tokens with byte fallback")
  for (const option of ["continuing_subword_prefix", "end_of_word_suffix"]) {
    if (model[option] != null && model[option] !== "") return yield* unsupported(`model.${option}`, "marked subwords")
  }
  const parts = componentsOf(raw.pre_tokenizer, "pretokenizers")
  const byteLevel = parts.find((part) => part.type === "ByteLevel")
  if (byteLevel === undefined) return yield* unsupported("pre_tokenizer", "no ByteLevel pre-tokenizer")
  if (byteLevel.add_prefix_space === true)
    return yield* unsupported("add_prefix_space", "a space is put before the text")
  if (!componentsOf(raw.decoder, "decoders").some((part) => part.type === "ByteLevel")) {
    return yield* unsupported("decoder", "no ByteLevel decoder")
  }

  const vocab = model.vocab
  if (!isRecord(vocab)) return yield* malformed("model.vocab is not an object")
  const tokens: Array<string | undefined> = []
  for (const [token, id] of Object.entries(vocab)) {
    if (typeof id !== "number" || !Number.isInteger(id) || id < 0 || id > maxTokenId) {
      return yield* malformed(`token ${quote(token)} has the id ${quote(String(id))}`)
    }
    if (tokens[id] !== undefined)
      return yield* malformed(`tokens ${quote(tokens[id])} and ${quote(token)} share id ${id}`)
    tokens[id] = token
  }
  const absent = byteToChar.findIndex((char) => !Object.hasOwn(vocab, char))
  if (absent >= 0)
    return yield* malformed(`the vocabulary lacks a token for byte ${absent}, so some text has no tokens`)

  const merges = model.merges
  if (!Array.isArray(merges)) return yield* malformed("model.merges is not a list")
  for (let rank = 0; rank < merges.length; rank++) {
    const merge: unknown = merges[rank]
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
  }

  const addedTokens: Array<AddedToken> = []
  const added = raw.added_tokens ?? []
  if (!Array.isArray(added)) return yield* malformed("added_tokens is not a list")
  for (const entry of added) {
    const id: unknown = isRecord(entry) ? entry.id : undefined
    const content: unknown = isRecord(entry) ? entry.content : undefined
    if (typeof id !== "number" || !Number.isInteger(id) || id < 0 || id > maxTokenId) {
      return yield* malformed("an added token has no valid id")
    }
    if (typeof content !== "string" || content === "") return yield* malformed(`added token ${id} has no content`)
    if (tokens[id] !== undefined && tokens[id] !== content) {
      return yield* malformed(`added token ${quote(content)} has the id ${id} of ${quote(tokens[id])}`)
    }
    tokens[id] = content
    addedTokens.push({ id, content, special: isRecord(entry) && entry.special === true })
  }
  const json = { normalizer: null, post_processor: null, ...raw, added_tokens: added, model: { ...model, type: "BPE" } }
  const checked: TokenizerFile = { json, tokens, addedTokens }
  return checked
})

/** A pipeline component, or the members of a Sequence. */
const componentsOf = (component: unknown, key: string): ReadonlyArray<{ readonly [key: string]: unknown }> => {
  if (!isRecord(component)) return []
  if (component.type !== "Sequence") return [component]
  const members = component[key]
  return Array.isArray(members) ? members.filter(isRecord) : []
}
