/** What the engine's tests share: requests, the same request by itself, and that nothing is left behind. */
import { assert } from "@effect/vitest"
import type { GpuError } from "@srcode/gpu"
import { Effect, Stream } from "effect"
import {
  type Decoder,
  type Engine,
  type EngineOptions,
  type ModelError,
  makeEngine,
  type SamplingParams,
  type SequenceRequest
} from "../../src/index.ts"
import { below, seeded } from "../support.ts"
import { plain } from "./checkpoint.ts"

export const warm: SamplingParams = { temperature: 1, topP: 1, topK: 0, minP: 0, maxTokens: 20, seed: 7 }

export const request = (
  ids: ReadonlyArray<number>,
  stream: number,
  change: Partial<SamplingParams> = {}
): SequenceRequest => ({
  ids,
  stream,
  lora: null,
  sampling: { ...warm, ...change }
})

export const prompt = (seed: number, length: number): ReadonlyArray<number> => {
  const next = seeded(seed)
  return Array.from({ length }, () => below(next, plain.vocab))
}

export const roomy: EngineOptions = { maxSequences: 8, maxTokens: 96, prefillTokens: 200, rank: 4 }

/** The request by itself in an engine of its own. */
export const alone = Effect.fnUntraced(function* (decoder: Decoder, one: SequenceRequest) {
  const engine = yield* makeEngine(decoder, { ...roomy, maxSequences: 1 })
  const [out] = yield* engine.generate([one])
  return out!
}, Effect.scoped)

export const collect = (engine: Engine, one: SequenceRequest) =>
  Stream.runCollect(engine.sample(one)).pipe(
    Effect.map((chunks) => ({
      ids: chunks.flatMap((c) => [...c.ids]),
      logProbs: chunks.flatMap((c) => [...c.logProbs]),
      truncated: chunks.at(-1)?.finish === "length"
    }))
  )

/** Everything is given back. */
export const assertIdle = Effect.fnUntraced(function* (engine: Engine) {
  const { pagesUsed, running, waiting } = yield* engine.stats
  assert.deepStrictEqual({ pagesUsed, running, waiting }, { pagesUsed: 0, running: 0, waiting: 0 })
})

export const refusal = <A, R>(effect: Effect.Effect<A, GpuError | ModelError, R>) =>
  Effect.flip(effect).pipe(
    Effect.map((error) => {
      assert.strictEqual(error._tag, "ModelError")
      assert.notMatch(error.message, /\n/)
      return error.message
    })
  )
