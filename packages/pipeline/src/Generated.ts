/** Responses as text: encoding prompts, sampling, decoding. Shared by reinforcement, evaluation and `generate`. */
import {
  type Generation,
  type Generator,
  type GeneratorOptions,
  type Lora,
  promptIds,
  type SamplingOptions,
  type Tokenizer
} from "@srcode/model"
import { Effect } from "effect"

export interface TextResponse {
  readonly prompt: string
  readonly promptIds: ReadonlyArray<number>
  readonly generation: Generation
  /** Without the end token. */
  readonly text: string
}

/**
 * The function body a response begins with: everything up to the first line that is a lone closing brace. Models trained on
 * several functions in a row go on after the one they were asked for.
 */
export const functionBody = (text: string): string => {
  const end = /(?:^|\n)\}(?=[ \t\r]*(?:\n|$))/.exec(text)
  return end === null ? text : text.slice(0, end.index + end[0].length)
}

/** Prompt tokens of one pass of the engine, unless a single prompt has more. */
const prefillTokens = 2048

/** The engine that answers prompts of these lengths, at most 64 and at most `batchSize` at once; a plan allocates the same. */
export const generatorFor = (
  promptLengths: ReadonlyArray<number>,
  options: { readonly maxTokens: number; readonly rank: number; readonly batchSize?: number }
): GeneratorOptions => {
  const longest = promptLengths.reduce((most, length) => Math.max(most, length), 0)
  const slots = Math.min(64, options.batchSize ?? promptLengths.length)
  return {
    slots,
    capacity: longest + options.maxTokens,
    prefill: Math.max(longest, Math.min(prefillTokens, slots * longest)),
    rank: options.rank
  }
}

/** Samples one response a prompt; `stream` numbers the prompts for the sampler (default: their index). */
export const respond = Effect.fn("respond")(function* (input: {
  readonly generator: Generator
  readonly tokenizer: Tokenizer
  readonly lora: Lora | null
  readonly prompts: ReadonlyArray<string>
  readonly sampling: SamplingOptions
  readonly firstStream?: number
  readonly onProgress?: (done: number, total: number) => Effect.Effect<void>
}) {
  const requests = input.prompts.map((prompt, i) => ({
    ids: promptIds(input.tokenizer, prompt),
    stream: (input.firstStream ?? 0) + i
  }))
  const generations = yield* input.generator.generate(input.lora, requests, input.sampling, input.onProgress)
  return generations.map((generation, i): TextResponse => {
    const ids = generation.truncated ? generation.ids : generation.ids.slice(0, -1)
    return {
      prompt: input.prompts[i] ?? "",
      promptIds: requests[i]?.ids ?? [],
      generation,
      text: input.tokenizer.decode(ids, { continuation: true })
    }
  })
})
