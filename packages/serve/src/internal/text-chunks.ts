/**
 * From the engine's bursts of tokens to pieces of text. Text is whole characters, ends before a stop string, and leaves
 * the end token out; a token's log-probability comes with the piece that completes its bytes, so tokens of a stop
 * string that is cut off are never told.
 */
import { makeDetokenizer, type TokenChunk, type Tokenizer } from "@srcode/model"
import { Stream } from "effect"

export interface TextToken {
  readonly bytes: Uint8Array
  /** Natural log of its probability under the model, before temperature and cuts. */
  readonly logProb: number
}

export interface TextChunk {
  readonly text: string
  readonly tokens: ReadonlyArray<TextToken>
  /** Tokens sampled so far that count as the answer's, the end token included. */
  readonly sampled: number
  readonly finish: null | "stop" | "length"
}

interface Pending extends TextToken {
  /** Bytes of the text up to the end of this token. */
  readonly end: number
}

const utf8Length = (text: string): number => new TextEncoder().encode(text).length

const makeState = (
  tokenizer: Tokenizer,
  options: { readonly stop: ReadonlyArray<string>; readonly endIds: ReadonlySet<number> }
) => {
  // The answer goes on from its prompt: a leading space is part of it.
  const detokenizer = makeDetokenizer(tokenizer, { stop: options.stop, skipSpecialTokens: true, continuation: true })
  let pending: ReadonlyArray<Pending> = []
  let [taken, told, released, sampled] = [0, 0, 0, 0]

  const release = (count: number): ReadonlyArray<TextToken> => {
    const out = pending.slice(0, Math.max(0, count))
    pending = pending.slice(out.length)
    released += out.length
    return out
  }
  /** The tokens whose bytes the text has reached. */
  const reached = (): number => {
    const beyond = pending.findIndex((token) => token.end > told)
    return beyond < 0 ? pending.length : beyond
  }

  return (chunk: TokenChunk): TextChunk => {
    const last = chunk.ids.at(-1)
    const ended = chunk.finish === "stop" && last !== undefined && options.endIds.has(last)
    const ids = ended ? chunk.ids.slice(0, -1) : chunk.ids
    const fresh = ids.map((id, i): Pending => {
      const bytes = tokenizer.specialIds.has(id) ? new Uint8Array(0) : tokenizer.tokenBytes(id)
      taken += bytes.length
      return { bytes, logProb: chunk.logProbs[i] ?? Number.NaN, end: taken }
    })
    pending = [...pending, ...fresh]
    const before = sampled
    sampled += chunk.ids.length
    const { text, stopped } = detokenizer.push(ids)
    if (stopped !== null) {
      const tokens = release(stopped.textTokens - released)
      return { text, tokens, sampled: Math.max(before, stopped.tokens), finish: "stop" }
    }
    const whole = chunk.finish === null ? text : text + detokenizer.finish()
    told = chunk.finish === null ? told + utf8Length(whole) : Number.POSITIVE_INFINITY
    return { text: whole, tokens: release(reached()), sampled, finish: chunk.finish }
  }
}

/** Ends with the first chunk that has a `finish`; the engine's stream is then let go of. */
export const textChunks =
  (tokenizer: Tokenizer, options: { readonly stop: ReadonlyArray<string>; readonly endIds: ReadonlySet<number> }) =>
  <E, R>(chunks: Stream.Stream<TokenChunk, E, R>): Stream.Stream<TextChunk, E, R> =>
    Stream.suspend(() => Stream.map(chunks, makeState(tokenizer, options))).pipe(
      Stream.takeUntil((chunk) => chunk.finish !== null)
    )
