/** Responses as text: encoding prompts, sampling, decoding. Shared by reinforcement, evaluation and `generate`. */
import type { Generation, Generator, Lora, SamplingOptions, Tokenizer } from "@srcode/model"
import { Effect } from "effect"

export interface TextResponse {
  readonly prompt: string
  readonly promptIds: ReadonlyArray<number>
  readonly generation: Generation
  /** Without the end token. */
  readonly text: string
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
    ids: input.tokenizer.encode(prompt),
    stream: (input.firstStream ?? 0) + i
  }))
  const generations = yield* input.generator.generate(input.lora, requests, input.sampling, input.onProgress)
  return generations.map((generation, i): TextResponse => {
    const ids = generation.truncated ? generation.ids : generation.ids.slice(0, -1)
    return {
      prompt: input.prompts[i] ?? "",
      promptIds: requests[i]?.ids ?? [],
      generation,
      text: input.tokenizer.decode(ids)
    }
  })
})
