/** Many completions at once under one adapter and one setting: a thin face over the engine, as training and evaluation use it. */

import type { Gpu, GpuError } from "@srcode/gpu"
import { Effect, type Scope } from "effect"
import { type Generation, makeEngine } from "./Engine.ts"
import type { Lora } from "./Lora.ts"
import type { ModelError } from "./ModelError.ts"
import { type SamplingParams, samplingDefaults } from "./Sampling.ts"
import type { Decoder } from "./Transformer.ts"

export interface SamplingOptions
  extends Pick<SamplingParams, "temperature" | "topP" | "maxTokens" | "seed">,
    Partial<Pick<SamplingParams, "topK" | "minP">> {}

export interface GenerationRequest {
  readonly ids: ReadonlyArray<number>
  /** Distinguishes samples of one prompt under one seed. */
  readonly stream: number
}

export interface GeneratorOptions {
  /** Sequences decoded at once. */
  readonly slots: number
  /** Tokens a sequence may have, prompt and response together. */
  readonly capacity: number
  /** Prompt tokens computed in one pass at most. */
  readonly prefill: number
  readonly rank: number
}

export interface Generator {
  readonly options: GeneratorOptions
  generate(
    lora: Lora | null,
    requests: ReadonlyArray<GenerationRequest>,
    sampling: SamplingOptions,
    onProgress?: (done: number, total: number) => Effect.Effect<void>
  ): Effect.Effect<ReadonlyArray<Generation>, GpuError | ModelError>
}

export const makeGenerator = (
  decoder: Decoder,
  options: GeneratorOptions
): Effect.Effect<Generator, GpuError | ModelError, Gpu | Scope.Scope> =>
  Effect.map(
    makeEngine(decoder, {
      maxSequences: options.slots,
      maxTokens: options.capacity,
      prefillTokens: options.prefill,
      rank: options.rank
    }),
    (engine): Generator => ({
      options,
      // A trainer changes its adapter in place between two calls, so nothing of an earlier call is shared.
      generate: (lora, requests, sampling, onProgress) =>
        Effect.andThen(
          engine.forgetPrefixes,
          engine.generate(
            requests.map(({ ids, stream }) => ({ ids, stream, lora, sampling: { ...samplingDefaults, ...sampling } })),
            onProgress
          )
        )
    })
  )
