/**
 * Text from tokens as they arrive: what has been returned so far, joined, is always the beginning of
 * `tokenizer.decode(all ids)`, however the ids are cut into pushes.
 *
 * Held back are the bytes of an unfinished UTF-8 character and any end of the text that may become a stop string. The
 * first stop string to be complete ends the text just before it, as it would end generation; of several that are
 * complete at the same character the longest counts. A stop string may span tokens, and may begin inside one.
 */
import type { DecodeOptions, Tokenizer } from "./Tokenizer.ts"

export interface DetokenizerOptions extends DecodeOptions {
  /** Texts that end the generation and are left out of it; empty ones are ignored. */
  readonly stop?: ReadonlyArray<string>
}

export interface Stopped {
  /** The stop string that was found. */
  readonly stop: string
  /** Pushed tokens through the one that completed the stop string: what was generated and counts as usage. */
  readonly tokens: number
  /** Pushed tokens that the kept text needs, at most `tokens`; the last of them may also hold the stop's beginning. */
  readonly textTokens: number
}

export interface Detokenized {
  /** The text that has become certain; may be empty. */
  readonly text: string
  readonly stopped: Stopped | null
}

export interface Detokenizer {
  /** After a stop further tokens are ignored: the text is empty and `stopped` the same. */
  readonly push: (ids: Iterable<number>) => Detokenized
  /**
   * The rest of the text when no more tokens come; an unfinished character becomes U+FFFD. Empty after a stop and when
   * called again. Should that character complete a stop string, a push of no tokens says so.
   */
  readonly finish: () => string
}

const spaceByte = 0x20

export const makeDetokenizer = (tokenizer: Tokenizer, options: DetokenizerOptions = {}): Detokenizer => {
  const utf8 = new TextDecoder("utf-8", { ignoreBOM: true })
  const stops = makeStopMatcher(options.stop ?? [])
  /** Length of the decoded text after each token, in UTF-16 units. */
  const lengths: Array<number> = []
  let strippable = options.continuation === true ? 0 : tokenizer.strippedSpaces
  let length = 0
  let held = ""
  let stopped: Stopped | null = null
  let finished = false

  const bytesOf = (id: number): Uint8Array => {
    if (options.skipSpecialTokens === true && tokenizer.specialIds.has(id)) return new Uint8Array(0)
    const bytes = tokenizer.tokenBytes(id)
    let from = 0
    while (strippable > 0 && bytes[from] === spaceByte) {
      strippable--
      from++
    }
    if (from < bytes.length) strippable = 0
    return bytes.subarray(from)
  }

  /** Adds decoded text; true if it completes a stop string, which is then gone from `held` with all that follows. */
  const take = (text: string): boolean => {
    held += text
    length += text.length
    lengths.push(length)
    const found = stops.feed(text)
    if (found === null) return false
    const kept = length - text.length + found.end - found.stop.length
    held = held.slice(0, held.length - (length - kept))
    stopped = {
      stop: found.stop,
      tokens: lengths.length,
      textTokens: kept === 0 ? 0 : lengths.findIndex((after) => after >= kept) + 1
    }
    return true
  }

  const certain = (): string => {
    const cut = stopped === null ? held.length - stops.pending() : held.length
    const text = held.slice(0, cut)
    held = held.slice(cut)
    return text
  }

  return {
    push: (ids) => {
      if (stopped !== null || finished) return { text: "", stopped }
      for (const id of ids) {
        if (take(utf8.decode(bytesOf(id), { stream: true }))) break
      }
      return { text: certain(), stopped }
    },
    finish: () => {
      if (stopped !== null || finished) return ""
      finished = true
      const rest = utf8.decode()
      if (rest !== "") {
        // the same last token becomes text now
        lengths.pop()
        take(rest)
      }
      const text = held
      held = ""
      return text
    }
  }
}

interface StopMatcher {
  /** The first stop string that is complete within the text, and where it ends there. */
  readonly feed: (text: string) => { readonly stop: string; readonly end: number } | null
  /** How many last characters of all that was fed may begin a stop string. */
  readonly pending: () => number
}

/** Knuth, Morris and Pratt's automaton for each stop string: constant work per character, however they overlap. */
const makeStopMatcher = (strings: ReadonlyArray<string>): StopMatcher => {
  const stops = [...new Set(strings.map((stop) => stop.toWellFormed()))]
    .filter((stop) => stop !== "")
    .sort((a, b) => b.length - a.length)
    .map((stop) => ({ stop, borders: bordersOf(stop), matched: 0 }))
  return {
    feed: (text) => {
      if (stops.length === 0) return null
      for (let at = 0; at < text.length; at++) {
        const char = text[at]!
        let found: string | null = null
        for (const state of stops) {
          while (state.matched > 0 && state.stop[state.matched] !== char) {
            state.matched = state.borders[state.matched - 1]!
          }
          if (state.stop[state.matched] === char) state.matched++
          if (state.matched === state.stop.length) found ??= state.stop
        }
        if (found !== null) return { stop: found, end: at + 1 }
      }
      return null
    },
    pending: () => stops.reduce((most, { matched }) => Math.max(most, matched), 0)
  }
}

/** For each prefix the length of its longest proper prefix that is also its suffix. */
const bordersOf = (stop: string): ReadonlyArray<number> => {
  const borders = [0]
  let border = 0
  for (let at = 1; at < stop.length; at++) {
    while (border > 0 && stop[border] !== stop[at]) border = borders[border - 1]!
    if (stop[border] === stop[at]) border++
    borders.push(border)
  }
  return borders
}
