/**
 * The JSON of answers: OpenAI's objects for chat and completions, whole and in stream chunks. Pure; the handlers give
 * the id, the time and the pieces.
 */
import { TextDecoder } from "node:util"
import { Result } from "effect"
import type { WholeChoice } from "../Choices.ts"
import type { TextChunk, TextToken } from "../TextModel.ts"

export interface Usage {
  readonly prompt_tokens: number
  readonly completion_tokens: number
  readonly total_tokens: number
}

export const usageOf = (prompt: number, completion: number): Usage => ({
  prompt_tokens: prompt,
  completion_tokens: completion,
  total_tokens: prompt + completion
})

/** How one endpoint writes its choices. A value is made per request: completions keep offsets. */
export interface Shape {
  readonly idPrefix: string
  /** The `object` of an answer given whole, and of a chunk. */
  readonly object: string
  readonly chunkObject: string
  readonly whole: (index: number, choice: WholeChoice) => unknown
  /** Choices to send before the first piece of a choice. */
  readonly opening: (index: number) => ReadonlyArray<unknown>
  /** What a piece adds to its choice, as none, one or two choices to send. */
  readonly piece: (index: number, chunk: TextChunk) => ReadonlyArray<unknown>
}

const strict = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true })

/** A token as text; bytes that are no text on their own are written out, since a string cannot carry them. */
const tokenText = (bytes: Uint8Array): string =>
  Result.getOrElse(
    Result.try(() => strict.decode(bytes)),
    () => `bytes:${[...bytes].map((byte) => `\\x${byte.toString(16).padStart(2, "0")}`).join("")}`
  )

/** JSON has no −∞. */
const finite = (logProb: number): number => Math.max(-9999, logProb)

const chatLogprobs = (tokens: ReadonlyArray<TextToken>) => ({
  content: tokens.map(({ bytes, logProb }) => ({
    token: tokenText(bytes),
    logprob: finite(logProb),
    bytes: [...bytes],
    top_logprobs: []
  })),
  refusal: null
})

export const chatShape = (options: { readonly logprobs: boolean }): Shape => {
  const logprobs = (tokens: ReadonlyArray<TextToken>) => (options.logprobs ? chatLogprobs(tokens) : null)
  const chunk = (index: number, delta: unknown, tokens: ReadonlyArray<TextToken>, finish: string | null) => ({
    index,
    delta,
    logprobs: tokens.length === 0 ? null : logprobs(tokens),
    finish_reason: finish
  })
  return {
    idPrefix: "chatcmpl-",
    object: "chat.completion",
    chunkObject: "chat.completion.chunk",
    whole: (index, choice) => ({
      index,
      message: { role: "assistant", content: choice.text, refusal: null },
      logprobs: logprobs(choice.tokens),
      finish_reason: choice.finish
    }),
    opening: (index) => [chunk(index, { role: "assistant", content: "" }, [], null)],
    piece: (index, { text, tokens, finish }) => [
      ...(text === "" && (tokens.length === 0 || !options.logprobs)
        ? []
        : [chunk(index, { content: text }, tokens, null)]),
      ...(finish === null ? [] : [chunk(index, {}, [], finish)])
    ]
  }
}

export const completionShape = (options: {
  readonly logprobs: boolean
  readonly topLogprobs: boolean
  /** Text before each choice, by its index. */
  readonly echo: (index: number) => string
}): Shape => {
  const ends = new Map<number, { readonly decoder: TextDecoder; characters: number }>()

  /** Offsets are characters (code points) of the choice's text; a token inside a character has that character's. */
  const logprobs = (index: number, tokens: ReadonlyArray<TextToken>) => {
    if (!options.logprobs) return null
    const end = ends.get(index) ?? { decoder: new TextDecoder("utf-8", { ignoreBOM: true }), characters: 0 }
    ends.set(index, end)
    const offsets = tokens.map(({ bytes }) => {
      const start = end.characters
      end.characters += [...end.decoder.decode(bytes, { stream: true })].length
      return start
    })
    const texts = tokens.map(({ bytes }) => tokenText(bytes))
    const values = tokens.map(({ logProb }) => finite(logProb))
    return {
      tokens: texts,
      token_logprobs: values,
      top_logprobs: options.topLogprobs ? texts.map((text, i) => ({ [text]: values[i] })) : null,
      text_offset: offsets
    }
  }
  return {
    idPrefix: "cmpl-",
    object: "text_completion",
    chunkObject: "text_completion",
    whole: (index, choice) => ({
      index,
      text: options.echo(index) + choice.text,
      logprobs: logprobs(index, choice.tokens),
      finish_reason: choice.finish
    }),
    opening: (index) => {
      const text = options.echo(index)
      return text === "" ? [] : [{ index, text, logprobs: null, finish_reason: null }]
    },
    piece: (index, { text, tokens, finish }) =>
      text === "" && finish === null && (tokens.length === 0 || !options.logprobs)
        ? []
        : [{ index, text, logprobs: logprobs(index, tokens), finish_reason: finish }]
  }
}
