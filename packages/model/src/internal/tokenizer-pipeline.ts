/**
 * The text side of a `tokenizer.json`: normalizer, pre-tokenizer and decoder, read for the two kinds that are supported
 * and refused by name otherwise. The library runs byte-level pre-tokenizers, but not all of them as Hugging Face's
 * tokenizers do, so they are rewritten into parts that it does right:
 *
 * - `Digits` knows only ASCII digits there; it becomes a `Split` by `\p{N}`.
 * - `ByteLevel` with `use_regex` has another idea of white space; the pattern becomes a `Split`.
 * - `Split` treats every behaviour but Removed as Isolated; only Isolated is accepted.
 *
 * The SentencePiece side (spaces as ▁, one of them put in front) is a few string operations and done here, since the
 * library cannot say where a text begins and its Metaspace never splits.
 */
import { Effect } from "effect"
import type { ModelError } from "../ModelError.ts"
import { tokenToBytes } from "./byte-alphabet.ts"
import { isRecord } from "./files.ts"

export type TokenizerKind = "byte-level" | "sentencepiece"

/** Where text stands: at the start, after an added token, or at the start of what goes on from other tokens. */
export type Place = "start" | "after" | "continued"

export interface Pipeline {
  readonly kind: TokenizerKind
  /** Text between added tokens → normalised text. */
  readonly normalize: (text: string, place: Place) => string
  /** Normalised text → what the library encodes piece by piece. */
  readonly words: (text: string, place: Place) => ReadonlyArray<string>
  /** The pre-tokenizer that the library applies to each of these. */
  readonly preTokenizer: Record<string, unknown> | null
  /** Spaces that decoding takes from the front of a text. */
  readonly strippedSpaces: number
  /** The bytes that a token stands for; added tokens of byte-level files are plain text. */
  readonly bytes: (token: string, added: boolean) => Uint8Array
}

type Part = { readonly [key: string]: unknown }
export type Unsupported = (option: string, what: string) => ModelError

const utf8 = new TextEncoder()
const forms = ["NFC", "NFD", "NFKC", "NFKD"] as const
const gpt2Pattern = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"

/**
 * A component, or the members of a Sequence (of Sequences), in order. What is neither absent nor an object becomes a part
 * without a type, which everyone refuses.
 */
export const componentsOf = (component: unknown, key: string): ReadonlyArray<Part> => {
  if (component === undefined || component === null) return []
  if (!isRecord(component)) return [{}]
  if (component.type !== "Sequence") return [component]
  const members = component[key]
  return Array.isArray(members) ? members.flatMap((member) => componentsOf(member ?? {}, key)) : [{}]
}

const isolated = (pattern: unknown): Part => ({ type: "Split", pattern, behavior: "Isolated", invert: false })

export const byteLevelPipeline = Effect.fnUntraced(function* (raw: Part, unsupported: Unsupported) {
  const found: Array<(typeof forms)[number]> = []
  for (const part of componentsOf(raw.normalizer, "normalizers")) {
    const form = forms.find((name) => name === part.type)
    if (form === undefined) return yield* unsupported("normalizer", `normalizer ${String(part.type)}`)
    found.push(form)
  }

  const parts = componentsOf(raw.pre_tokenizer, "pretokenizers")
  const rewritten: Array<Part> = []
  for (const [index, part] of parts.entries()) {
    if (part.type === "Split") {
      if (part.behavior !== "Isolated") {
        return yield* unsupported("pre_tokenizer.behavior", `Split with behaviour ${String(part.behavior)}`)
      }
      // the library drops all text where it finds no pattern
      const pattern = isRecord(part.pattern) ? (part.pattern.Regex ?? part.pattern.String) : undefined
      if (!isRecord(part.pattern) || typeof pattern !== "string" || pattern === "") {
        return yield* unsupported("pre_tokenizer.pattern", "Split without a pattern")
      }
      // the same matches: elsewhere in a run of white space there is none, but looking takes quadratic time
      rewritten.push(isolated(part.pattern.Regex === "\\s+$" ? { Regex: "(?<!\\s)\\s+$" } : part.pattern))
    } else if (part.type === "Digits") {
      rewritten.push(isolated({ Regex: part.individual_digits === true ? "\\p{N}" : "\\p{N}+" }))
    } else if (part.type === "ByteLevel" && index === parts.length - 1) {
      if (part.add_prefix_space === true) {
        return yield* unsupported("add_prefix_space", "a space is put before the text")
      }
      if (part.use_regex !== false) rewritten.push(isolated({ Regex: gpt2Pattern }))
      rewritten.push({ type: "ByteLevel", add_prefix_space: false, trim_offsets: false, use_regex: false })
    } else {
      return yield* unsupported("pre_tokenizer", `pre-tokenizer ${String(part.type)} at place ${index}`)
    }
  }
  if (parts.at(-1)?.type !== "ByteLevel") return yield* unsupported("pre_tokenizer", "no ByteLevel pre-tokenizer")
  const decoders = componentsOf(raw.decoder, "decoders")
  if (decoders.length !== 1 || decoders[0]?.type !== "ByteLevel") {
    return yield* unsupported("decoder", "a decoder other than ByteLevel")
  }
  const pipeline: Pipeline = {
    kind: "byte-level",
    normalize: (text) => found.reduce((result, form) => result.normalize(form), text),
    words: (text) => [text],
    preTokenizer: { type: "Sequence", pretokenizers: rewritten },
    strippedSpaces: 0,
    bytes: (token, added) => (added ? undefined : tokenToBytes(token)) ?? utf8.encode(token)
  }
  return pipeline
})

const mark = "\u2581"
const byteToken = /^<0x([0-9A-Fa-f]{2})>$/

export const sentencePiecePipeline = Effect.fnUntraced(function* (raw: Part, unsupported: Unsupported) {
  let prepend = false
  let replace = false
  for (const part of componentsOf(raw.normalizer, "normalizers")) {
    if (part.type === "Prepend" && part.prepend === mark && !prepend) prepend = true
    else if (part.type === "Replace" && isRecord(part.pattern) && part.pattern.String === " " && part.content === mark)
      replace = true
    else return yield* unsupported("normalizer", `normalizer ${JSON.stringify(part).slice(0, 80)}`)
  }

  const parts = componentsOf(raw.pre_tokenizer, "pretokenizers")
  const space = parts[0]
  const scheme = space?.add_prefix_space === false ? "never" : (space?.prepend_scheme ?? "always")
  const splits = space !== undefined && space.split !== false
  if (parts.length > 1 || (space !== undefined && space.type !== "Metaspace")) {
    return yield* unsupported("pre_tokenizer", `pre-tokenizer ${String(parts.at(-1)?.type)}`)
  }
  if (space !== undefined && space.replacement !== mark) {
    return yield* unsupported("pre_tokenizer.replacement", `spaces written as ${JSON.stringify(space.replacement)}`)
  }
  if (scheme !== "always" && scheme !== "first" && scheme !== "never") {
    return yield* unsupported("pre_tokenizer.prepend_scheme", `prepend_scheme ${String(scheme)}`)
  }
  if (space === undefined && !replace) return yield* unsupported("normalizer", `spaces are not written as ${mark}`)

  const decoders = componentsOf(raw.decoder, "decoders")
  const [replacing, , , strip] = decoders
  const order = decoders.map((part) => String(part.type)).join(", ")
  if (order !== "Replace, ByteFallback, Fuse" && order !== "Replace, ByteFallback, Fuse, Strip") {
    return yield* unsupported("decoder", `decoder steps ${order || "(none)"}`)
  }
  if (!isRecord(replacing?.pattern) || replacing.pattern.String !== mark || replacing.content !== " ") {
    return yield* unsupported("decoder", `a decoder that does not write ${mark} as a space`)
  }
  const strippedSpaces = strip === undefined ? 0 : strip.start
  if (strip !== undefined && (strip.content !== " " || (strip.stop ?? 0) !== 0)) {
    return yield* unsupported("decoder.Strip", "a decoder that strips more than leading spaces")
  }
  if (typeof strippedSpaces !== "number" || !Number.isInteger(strippedSpaces) || strippedSpaces < 0) {
    return yield* unsupported("decoder.Strip", `Strip with start ${String(strippedSpaces)}`)
  }

  const pipeline: Pipeline = {
    kind: "sentencepiece",
    normalize: (text, place) => {
      const marked = replace ? text.replaceAll(" ", mark) : text
      return prepend && place !== "continued" ? mark + marked : marked
    },
    words: (text, place) => {
      if (space === undefined) return [text]
      const marked = text.replaceAll(" ", mark)
      const prefixed = scheme === "always" ? place !== "continued" : scheme === "first" && place === "start"
      const whole = prefixed && !marked.startsWith(mark) ? mark + marked : marked
      return splits ? whole.split(new RegExp(`(?=${mark})`, "u")) : [whole]
    },
    preTokenizer: null,
    strippedSpaces,
    bytes: (token) => {
      const hex = byteToken.exec(token)?.[1]
      return hex === undefined ? utf8.encode(token.replaceAll(mark, " ")) : Uint8Array.of(Number.parseInt(hex, 16))
    }
  }
  return pipeline
})
