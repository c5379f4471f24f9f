/**
 * A lexer for C and C++ text that may be hostile or broken: it never fails, and it agrees with the compilers on where
 * comments and literals end (line splices, raw strings, header names, stray quotes), since that is where tricks hide.
 *
 * Unusual: `start` and `end` are UTF-16 offsets into the original text although tokens are read from the text with line
 * splices removed; `positions` maps every character of a spliced identifier back.
 */

export interface Token {
  readonly kind: "identifier" | "number" | "string" | "character" | "comment" | "punctuation"
  /** With splices removed. */
  readonly text: string
  readonly start: number
  readonly end: number
  /** Original offset of each character of `text`. */
  readonly positions: ReadonlyArray<number>
  /** First token of a preprocessing directive line (`#` or `%:`). */
  readonly startsDirective: boolean
  /** Number of the directive line this token is in, or -1. */
  readonly directive: number
  readonly line: number
}

export interface LexOptions {
  readonly digitSeparators: boolean
}

const identifierStart = /[A-Za-z_$\u0080-\uffff]/
const identifierPart = /[A-Za-z0-9_$\u0080-\uffff]/
const digit = /[0-9]/
const rawPrefix = /^(?:u8|u|U|L)?R$/

export const lex = (code: string, options: LexOptions): ReadonlyArray<Token> => {
  const { text, positions } = splice(code)
  const lineOf = lineCounter(code)
  const tokens: Array<Token> = []
  let atLineStart = true
  let directive = -1
  let directives = 0
  let headerName = false
  let i = 0

  const push = (kind: Token["kind"], from: number, to: number, startsDirective = false) => {
    const start = positions[from]!
    tokens.push({
      kind,
      text: text.slice(from, to),
      start,
      end: positions[to - 1]! + 1,
      positions: positions.slice(from, to),
      startsDirective,
      directive,
      line: lineOf(start)
    })
    if (kind !== "comment") atLineStart = false
  }

  while (i < text.length) {
    const char = text[i]!
    if (char === "\n") {
      atLineStart = true
      directive = -1
      headerName = false
      i++
      continue
    }
    if (/\s/.test(char)) {
      i++
      continue
    }
    const from = i
    if (text.startsWith("//", i)) {
      while (i < text.length && text[i] !== "\n") i++
      push("comment", from, i)
    } else if (text.startsWith("/*", i)) {
      const close = text.indexOf("*/", i + 2)
      i = close < 0 ? text.length : close + 2
      push("comment", from, i)
    } else if (headerName && char === "<" && /^<[^>\n]*>/.test(text.slice(i, i + 4096))) {
      i = text.indexOf(">", i) + 1
      push("string", from, i)
      headerName = false
    } else if (char === '"' || char === "'") {
      const end = literalEnd(text, i, char)
      i = end ?? i + 1
      push(end === undefined ? "punctuation" : char === '"' ? "string" : "character", from, i)
    } else if (identifierStart.test(char)) {
      while (i < text.length && identifierPart.test(text[i]!)) i++
      if (text[i] === '"' && rawPrefix.test(text.slice(from, i))) {
        const end = rawStringEnd(text, i)
        if (end !== undefined) {
          i = end
          push("string", from, i)
          continue
        }
      }
      push("identifier", from, i)
      const before = tokens[tokens.length - 2]
      headerName =
        before?.startsDirective === true && /^(?:include|include_next|import|embed)$/.test(text.slice(from, i))
    } else if (digit.test(char) || (char === "." && digit.test(text[i + 1] ?? ""))) {
      while (i < text.length) {
        if (/[eEpP][+-]/.test(text.slice(i, i + 2))) i += 2
        else if (identifierPart.test(text[i]!) || text[i] === ".") i++
        else if (options.digitSeparators && text[i] === "'" && identifierPart.test(text[i + 1] ?? "")) i += 2
        else break
      }
      push("number", from, i)
    } else {
      const two = text.slice(i, i + 2)
      i += two === "##" || two === "%:" || two === "[[" || two === "]]" || two === "::" ? 2 : 1
      const opens = atLineStart && (char === "#" || two === "%:") && two !== "##"
      if (opens) directive = directives++
      push("punctuation", from, i, opens)
    }
  }
  return tokens
}

/** Text without line splices (backslash, optional blanks, newline) and the original offset of each character left. */
const splice = (code: string): { readonly text: string; readonly positions: ReadonlyArray<number> } => {
  const positions: Array<number> = []
  const parts: Array<string> = []
  const pattern = /\\[ \t\f\v]*\r?\n/g
  let from = 0
  const keep = (to: number) => {
    parts.push(code.slice(from, to))
    for (let i = from; i < to; i++) positions.push(i)
  }
  for (let match = pattern.exec(code); match !== null; match = pattern.exec(code)) {
    keep(match.index)
    from = match.index + match[0].length
  }
  keep(code.length)
  return { text: parts.join(""), positions }
}

const literalEnd = (text: string, start: number, quote: string): number | undefined => {
  for (let i = start + 1; i < text.length && text[i] !== "\n"; i++) {
    if (text[i] === "\\") i++
    else if (text[i] === quote) return i + 1
  }
  return undefined
}

const rawStringEnd = (text: string, quote: number): number | undefined => {
  const opening = /^"([^ ()\\\t\v\f\n]{0,16})\(/.exec(text.slice(quote, quote + 20))
  if (opening === null) return undefined
  const closing = `)${opening[1]}"`
  const end = text.indexOf(closing, quote + opening[0].length)
  return end < 0 ? undefined : end + closing.length
}

/** 1-based line of an offset; offsets must not decrease from call to call. */
const lineCounter = (code: string): ((offset: number) => number) => {
  let line = 1
  let at = 0
  return (offset) => {
    for (; at < offset; at++) if (code.charCodeAt(at) === 10) line++
    return line
  }
}
