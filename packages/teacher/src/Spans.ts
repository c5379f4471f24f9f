/**
 * Quotes → characters → UTF-8 bytes → tokens: where exactly a rewarded construct stands.
 *
 * Unusual: ranges come back split at whitespace and cut around comments, so a token earns only when it holds a
 * character that is itself rewarded; a token that shares nothing but its leading blanks with a span earns nothing.
 * All offsets out of this module are half-open UTF-8 byte ranges into the response; offsets into JavaScript strings
 * (UTF-16 units) are converted by one table. Lone surrogates count three bytes, as an encoder writes U+FFFD for them.
 */
import type { ByteRange, Language, Span } from "@srcode/domain"
import { byteOfSymbol } from "./internal/byteAlphabet.ts"

/** `table[i]` = UTF-8 bytes before UTF-16 unit i, for 0 ≤ i ≤ text.length. The low half of a pair maps to its start. */
export const utf8Offsets = (text: string): Int32Array => {
  const table = new Int32Array(text.length + 1)
  let bytes = 0
  for (let i = 0; i < text.length; i++) {
    table[i] = bytes
    const unit = text.charCodeAt(i)
    if (unit < 0x80) bytes += 1
    else if (unit < 0x800) bytes += 2
    else if (unit >= 0xd800 && unit < 0xdc00 && isLow(text.charCodeAt(i + 1))) {
      table[i + 1] = bytes
      bytes += 4
      i += 1
    } else bytes += 3
  }
  table[text.length] = bytes
  return table
}

/** `table[b]` = the UTF-16 unit of the character that byte b belongs to; the last entry is text.length. */
export const utf16Offsets = (text: string): Int32Array => {
  const forward = utf8Offsets(text)
  const size = forward[text.length] ?? 0
  const table = new Int32Array(size + 1)
  for (let i = 0, unit = 0; i < text.length; i = unit) {
    unit = i + 1
    while (unit < text.length && forward[unit] === forward[i]) unit += 1
    table.fill(i, forward[i], forward[unit])
  }
  table[size] = text.length
  return table
}

const isLow = (unit: number): boolean => unit >= 0xdc00 && unit < 0xe000

/** Comment ranges in UTF-16 offsets; text inside string and character literals is never a comment. */
export const commentRanges = (text: string, language: Language = "c"): ReadonlyArray<ByteRange> => {
  const found: Array<ByteRange> = []
  const pattern =
    language === "python"
      ? /"""[\s\S]*?(?:"""|$)|'''[\s\S]*?(?:'''|$)|"(?:\\.|[^"\\\n])*"?|'(?:\\.|[^'\\\n])*'?|#[^\n]*/g
      : /"(?:\\[\s\S]|[^"\\\n])*"?|'(?:\\[\s\S]|[^'\\\n])*'?|\/\/(?:\\\r?\n|[^\n])*|\/\*[\s\S]*?(?:\*\/|$)/g
  for (const match of text.matchAll(pattern)) {
    const mark = match[0].slice(0, 2)
    if (mark === "//" || mark === "/*" || mark.startsWith("#"))
      found.push({ start: match.index, end: match.index + match[0].length })
  }
  return found
}

export interface ResolvedSpans {
  /** Sorted, disjoint, free of whitespace and comments; bytes into the response. */
  readonly ranges: ReadonlyArray<ByteRange>
  readonly found: number
  readonly dropped: number
}

/**
 * Finds each quote: its exact n-th appearance, else the n-th appearance when all whitespace is ignored, else it is
 * dropped (also when it is empty, or lies in comments only). `found + dropped` = number of spans.
 */
export const resolveSpans = (response: string, spans: ReadonlyArray<Span>, language: Language = "c"): ResolvedSpans => {
  const rewarded = new Uint8Array(response.length)
  const excluded = new Uint8Array(response.length)
  for (const range of commentRanges(response, language)) excluded.fill(1, range.start, range.end)
  for (let i = 0; i < response.length; i++) if (isBlank(response.charCodeAt(i))) excluded[i] = 1
  const offsets = utf8Offsets(response)
  const dense = new Dense(response)
  let found = 0
  for (const span of spans) {
    const place = locate(response, span.quote, span.occurrence) ?? dense.locate(span.quote, span.occurrence)
    if (place === undefined) continue
    let any = false
    // A quote may cut a surrogate pair in two; the character is paid whole.
    const first = offsets[place.start] === offsets[place.start - 1] ? place.start - 1 : place.start
    const last = offsets[place.end] === offsets[place.end - 1] ? place.end + 1 : place.end
    for (let i = first; i < last; i++)
      if (excluded[i] === 0) {
        rewarded[i] = 1
        any = true
      }
    if (any) found += 1
  }
  const ranges: Array<ByteRange> = []
  for (let i = 0; i < response.length; i++) {
    if (rewarded[i] === 0) continue
    let end = i + 1
    while (end < response.length && rewarded[end] === 1) end += 1
    ranges.push({ start: offsets[i] ?? 0, end: offsets[end] ?? 0 })
    i = end
  }
  return { ranges, found, dropped: spans.length - found }
}

const isBlank = (unit: number): boolean => unit === 32 || (unit >= 9 && unit <= 13) || unit === 0xa0 || unit === 0xfeff

/** The appearance number `occurrence` (from 0; appearances may overlap), in UTF-16 offsets. */
const locate = (text: string, quote: string, occurrence: number): ByteRange | undefined => {
  if (quote.trim() === "" || occurrence < 0) return undefined
  let at = text.indexOf(quote)
  for (let n = 0; n < occurrence && at >= 0; n++) at = text.indexOf(quote, at + 1)
  return at < 0 ? undefined : { start: at, end: at + quote.length }
}

/** The text without its whitespace, and the way back; built on first use. */
class Dense {
  private readonly text: string
  private built: { readonly dense: string; readonly back: ReadonlyArray<number> } | undefined

  constructor(text: string) {
    this.text = text
  }

  locate(quote: string, occurrence: number): ByteRange | undefined {
    this.built ??= squeeze(this.text)
    const wanted = squeeze(quote)
    const place = locate(this.built.dense, wanted.dense, occurrence)
    if (place === undefined) return undefined
    const first = this.built.back[place.start]
    const last = this.built.back[place.end - 1]
    return first === undefined || last === undefined ? undefined : { start: first, end: last + 1 }
  }
}

const squeeze = (text: string): { readonly dense: string; readonly back: ReadonlyArray<number> } => {
  const back: Array<number> = []
  let dense = ""
  for (let i = 0; i < text.length; i++) {
    if (isBlank(text.charCodeAt(i))) continue
    dense += text.charAt(i)
    back.push(i)
  }
  return { dense, back }
}

/** Whether each token overlaps a rewarded byte. `ranges` as `resolveSpans` gives them; both lists sorted. */
export const tokenMask = (
  ranges: ReadonlyArray<ByteRange>,
  tokenRanges: ReadonlyArray<ByteRange>
): ReadonlyArray<boolean> => {
  let next = 0
  return tokenRanges.map((token) => {
    while (next < ranges.length && (ranges[next]?.end ?? 0) <= token.start) next += 1
    const range = ranges[next]
    return range !== undefined && token.end > token.start && range.start < token.end
  })
}

/**
 * Byte ranges of byte-level BPE tokens (GPT-2 alphabet: `Ġ` is a space, `Ċ` a newline), each symbol one byte. A token
 * outside the alphabet (an added token kept as plain text) counts its UTF-8 length. Never decode token by token: a
 * character split over two tokens would come back as two replacement marks and shift everything behind it.
 */
export const byteLevelRanges = (tokens: ReadonlyArray<string>): ReadonlyArray<ByteRange> => {
  let at = 0
  return tokens.map((token) => {
    const start = at
    at += isByteLevel(token) ? [...token].length : (utf8Offsets(token)[token.length] ?? 0)
    return { start, end: at }
  })
}

const isByteLevel = (token: string): boolean => [...token].every((symbol) => byteOfSymbol.has(symbol))
