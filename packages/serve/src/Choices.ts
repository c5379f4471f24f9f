/**
 * A request's sequences, run side by side: n for each prompt, as one stream of pieces that say which choice they
 * belong to.
 *
 * Seeds: choice i of prompt p is sequence p · n + i of the request's seed, so an answer depends on the request alone
 * and not on what else the server does.
 */
import { Clock, Effect, Exit, Random, type Scope, Stream } from "effect"
import type { Admission } from "./Admission.ts"
import { type ApiError, badRequest } from "./ApiError.ts"
import type { Wanted } from "./Requests.ts"
import type { ServeMetrics } from "./ServeMetrics.ts"
import type { TextChunk, TextModel, TextModelError } from "./TextModel.ts"

export interface Piece {
  /** Place of the choice in the answer. */
  readonly index: number
  readonly chunk: TextChunk
}

export interface Choices {
  /** Choices in the answer. */
  readonly count: number
  readonly promptTokens: number
  readonly pieces: Stream.Stream<Piece, TextModelError>
}

/** What the handlers share. */
export interface Serving {
  readonly model: TextModel["Service"]
  readonly admission: Admission
  readonly metrics: ServeMetrics
}

/** A seed of the API (53 bits, signed) as the sampler's 32 bits; those that fit stay what they are, others are hashed. */
export const samplerSeed = (seed: number): number => {
  if (seed >= 0 && seed < 2 ** 32) return seed
  const bits = BigInt.asUintN(64, BigInt(seed))
  // the high half of a product with the odd 2^64 / φ depends on every bit
  return Number(BigInt.asUintN(64, bits * 0x9e37_79b9_7f4a_7c15n) >> 32n)
}

const checkPrompt = (
  model: TextModel["Service"],
  ids: ReadonlyArray<number>,
  maxTokens: number | undefined,
  param: string
): Effect.Effect<void, ApiError> => {
  const limit = model.limits.maxTokens
  const bad = ids.find((id) => id >= model.vocabSize)
  if (bad !== undefined)
    return Effect.fail(
      badRequest(`${param}: token id ${bad} is outside the vocabulary of ${model.vocabSize}`, { param })
    )
  if (ids.length === 0)
    return Effect.fail(badRequest(`${param}: the prompt is empty; give at least one token`, { param }))
  const room = limit - ids.length
  if (room < (maxTokens ?? 1)) {
    const asked = maxTokens === undefined ? "" : ` and ${maxTokens} new ones`
    const help = maxTokens === undefined || room < 1 ? "shorten it" : `shorten it or ask for at most ${room} new tokens`
    return Effect.fail(
      badRequest(`the prompt has ${ids.length} tokens${asked}, and a sequence may have ${limit}; ${help}`, {
        param,
        code: "context_length_exceeded"
      })
    )
  }
  return Effect.void
}

/** Refuses a text that is too long whatever its tokens are, so that nobody waits for them to be counted. */
export const checkText = (
  model: TextModel["Service"],
  texts: ReadonlyArray<string>,
  param: string
): Effect.Effect<void, ApiError> => {
  const bytes = texts.reduce((sum, text) => sum + Buffer.byteLength(text), 0)
  return bytes <= model.maxTextBytes
    ? Effect.void
    : Effect.fail(
        badRequest(
          `the prompt has ${bytes} bytes, which no sequence of ${model.limits.maxTokens} tokens holds; shorten it`,
          { param, code: "context_length_exceeded" }
        )
      )
}

/** Checks and admits the sequences; they start when the pieces are drawn. Places are held until each sequence's end. */
export const openChoices = Effect.fn("Choices.open")(function* (
  { model, admission, metrics }: Serving,
  wanted: Wanted,
  prompts: ReadonlyArray<ReadonlyArray<number>>,
  param: string
): Effect.fn.Return<Choices, ApiError, Scope.Scope> {
  for (const ids of prompts) yield* checkPrompt(model, ids, wanted.maxTokens, param)
  const since = yield* Clock.currentTimeMillis
  const seed = samplerSeed(wanted.seed ?? (yield* Random.nextInt))
  const count = prompts.length * wanted.n
  const places = yield* admission.take(count)
  const promptTokens = prompts.reduce((sum, ids) => sum + ids.length, 0)
  yield* metrics.accepted(promptTokens)
  yield* Effect.addFinalizer(() =>
    Effect.flatMap(Clock.currentTimeMillis, (now) => metrics.requestEnded((now - since) / 1000))
  )

  const run = (ids: ReadonlyArray<number>, index: number): Stream.Stream<Piece, TextModelError> =>
    Stream.suspend(() => {
      let latest: TextChunk | undefined
      const chunks = model.sample({
        model: wanted.model,
        ids,
        stream: index,
        sampling: {
          temperature: wanted.temperature,
          topP: wanted.topP,
          topK: wanted.topK,
          minP: wanted.minP,
          maxTokens: wanted.maxTokens ?? model.limits.maxTokens - ids.length,
          seed
        },
        stop: wanted.stop,
        stopIds: wanted.stopIds
      })
      return chunks.pipe(
        Stream.mapEffect((chunk) => {
          const first = latest === undefined && chunk.sampled > 0
          latest = chunk
          const piece = { index, chunk }
          if (!first) return Effect.succeed(piece)
          return Clock.currentTimeMillis.pipe(
            Effect.flatMap((now) => metrics.firstToken((now - since) / 1000)),
            Effect.as(piece)
          )
        }),
        Stream.onExit((exit) => {
          const cut = Exit.isFailure(exit) && !Exit.hasInterrupts(exit) ? "error" : "cancelled"
          return Effect.andThen(metrics.sequenceEnded(latest?.finish ?? cut, latest?.sampled ?? 0), places.release)
        }),
        // The engine is never held up by a reader, and a place is free when its sequence has ended.
        Stream.buffer({ capacity: "unbounded" })
      )
    })

  const streams = prompts.flatMap((ids, p) => Array.from({ length: wanted.n }, (_, i) => run(ids, p * wanted.n + i)))
  return { count, promptTokens, pieces: Stream.mergeAll(streams, { concurrency: "unbounded" }) }
})

/** One choice of an answer that is given whole. */
export interface WholeChoice {
  readonly text: string
  readonly tokens: TextChunk["tokens"]
  readonly sampled: number
  readonly finish: "stop" | "length"
}

/** All choices to their end, in order. */
export const collectChoices = (choices: Choices): Effect.Effect<ReadonlyArray<WholeChoice>, TextModelError> =>
  Stream.runFold(
    choices.pieces,
    () => Array.from({ length: choices.count }, (): Array<TextChunk> => []),
    (all, { index, chunk }) => {
      all[index]?.push(chunk)
      return all
    }
  ).pipe(
    Effect.map((all) =>
      all.map((chunks) => ({
        text: chunks.map((chunk) => chunk.text).join(""),
        tokens: chunks.flatMap((chunk) => chunk.tokens),
        sampled: chunks.at(-1)?.sampled ?? 0,
        finish: chunks.at(-1)?.finish ?? "stop"
      }))
    )
  )
