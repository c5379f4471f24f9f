/**
 * Added tokens: strings such as `<|im_start|>` that are cut out of a text before the model sees the rest. The library's
 * own splitter ignores `single_word`, and mixes up what is first in a text, so this one is used instead; it keeps the
 * rules of Hugging Face's tokenizers: leftmost, then longest; tokens with `normalized: false` are looked for in the
 * text itself, the others afterwards in the normalised rest.
 */
import { isRecord } from "./files.ts"

export interface AddedToken {
  readonly id: number
  readonly content: string
  readonly special: boolean
  /** Looked for in the normalised text, with its content normalised too. */
  readonly normalized: boolean
  /** Whitespace on that side belongs to the token (and is lost in decoding). */
  readonly lstrip: boolean
  readonly rstrip: boolean
  /** Only where no word character touches it. */
  readonly singleWord: boolean
}

export interface Piece {
  readonly text: string
  /** The added token, or null for text between. */
  readonly id: number | null
  /** UTF-16 offset in the text that was split. */
  readonly start: number
}

/** A token in `tokenizer_config.json` is its text or an object with `content`. */
export const tokenText = (value: unknown): string | null =>
  typeof value === "string" ? value : isRecord(value) && typeof value.content === "string" ? value.content : null

const space = /\p{White_Space}/u
const wordAtEnd = /[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]$/u
const wordAtStart = /^[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]/u

const escaped = (text: string): string => text.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&")

/** `spelling` gives the string to look for. Empty pieces are never returned. */
export const makeSplitter = (tokens: ReadonlyArray<AddedToken>, spelling: (token: AddedToken) => string) => {
  const bySpelling = new Map<string, AddedToken>()
  for (const token of tokens) {
    const text = spelling(token)
    if (text !== "" && !bySpelling.has(text)) bySpelling.set(text, token)
  }
  const longestFirst = [...bySpelling.keys()].sort((a, b) => b.length - a.length)
  const pattern = longestFirst.length === 0 ? null : new RegExp(longestFirst.map(escaped).join("|"), "gu")

  return (text: string): ReadonlyArray<Piece> => {
    if (text === "") return []
    if (pattern === null) return [{ text, id: null, start: 0 }]
    const pieces: Array<Piece> = []
    let done = 0
    for (const match of text.matchAll(pattern)) {
      const token = bySpelling.get(match[0])
      let start = match.index
      let end = start + match[0].length
      if (token === undefined || start < done) continue
      if (
        token.singleWord &&
        (wordAtEnd.test(text.slice(Math.max(0, start - 2), start)) || wordAtStart.test(text.slice(end, end + 2)))
      ) {
        continue
      }
      if (token.lstrip) while (start > done && space.test(text[start - 1]!)) start--
      if (token.rstrip) while (end < text.length && space.test(text[end]!)) end++
      if (done < start) pieces.push({ text: text.slice(done, start), id: null, start: done })
      pieces.push({ text: text.slice(start, end), id: token.id, start })
      done = end
    }
    if (done < text.length) pieces.push({ text: text.slice(done), id: null, start: done })
    return pieces
  }
}
