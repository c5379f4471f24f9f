/**
 * From choices to an HTTP response: one JSON object, or server-sent events that end in `data: [DONE]`. An error after
 * the stream has begun is an event with the error object, and the stream ends without `[DONE]`.
 */
import { Cause, Clock, Effect, Random, type Scope, Stream } from "effect"
import { HttpServerResponse } from "effect/http"
import { type ApiError, internalError } from "../ApiError.ts"
import { type Choices, collectChoices } from "../Choices.ts"
import type { Wanted } from "../Requests.ts"
import type { TextModelError } from "../TextModel.ts"
import { type Shape, usageOf } from "./answers.ts"

const event = (data: unknown): string => `data: ${JSON.stringify(data)}\n\n`
const done = "data: [DONE]\n\n"

const asApiError = (error: TextModelError): ApiError => internalError(error.message, { code: "engine_error" })

const hex = Effect.map(Random.nextIntBetween(0, 2 ** 32), (n) => n.toString(16).padStart(8, "0"))

const makeEnvelope = Effect.fnUntraced(function* (wanted: Wanted, shape: Shape, object: string) {
  const id = shape.idPrefix + (yield* hex) + (yield* hex) + (yield* hex)
  const created = Math.floor((yield* Clock.currentTimeMillis) / 1000)
  return { id, object, created, model: wanted.model }
})

const whole = Effect.fnUntraced(function* (wanted: Wanted, shape: Shape, choices: Choices) {
  const envelope = yield* makeEnvelope(wanted, shape, shape.object)
  const collected = yield* Effect.mapError(collectChoices(choices), asApiError)
  const sampled = collected.reduce((sum, choice) => sum + choice.sampled, 0)
  return HttpServerResponse.jsonUnsafe({
    ...envelope,
    choices: collected.map((choice, index) => shape.whole(index, choice)),
    usage: usageOf(choices.promptTokens, sampled)
  })
})

const streamed = Effect.fnUntraced(function* (wanted: Wanted, shape: Shape, choices: Choices) {
  const envelope = yield* makeEnvelope(wanted, shape, shape.chunkObject)
  const noUsage = wanted.includeUsage ? { usage: null } : {}
  const send = (choice: unknown): string => event({ ...envelope, choices: [choice], ...noUsage })
  const sampled = new Map<number, number>()
  const openings = Array.from({ length: choices.count }, (_, index) => shape.opening(index)).flat()
  const events = Stream.fromIterable(openings.map(send)).pipe(
    Stream.concat(
      choices.pieces.pipe(
        Stream.map(({ index, chunk }) => {
          sampled.set(index, chunk.sampled)
          return shape.piece(index, chunk).map(send).join("")
        }),
        Stream.filter((text) => text !== "")
      )
    ),
    Stream.concat(
      Stream.suspend(() => {
        if (!wanted.includeUsage) return Stream.make(done)
        const total = [...sampled.values()].reduce((sum, count) => sum + count, 0)
        return Stream.make(event({ ...envelope, choices: [], usage: usageOf(choices.promptTokens, total) }), done)
      })
    ),
    Stream.catchCause((cause) => {
      if (Cause.hasInterruptsOnly(cause)) return Stream.failCause(cause)
      const known = cause.reasons.find(Cause.isFailReason)
      const error =
        known === undefined ? internalError("internal error; see the server's log") : asApiError(known.error)
      return Stream.concat(
        Stream.fromEffectDrain(
          known === undefined
            ? Effect.logError("a stream failed", cause)
            : Effect.logError(`a stream failed: ${known.error.message}`)
        ),
        Stream.make(event(error.body))
      )
    }),
    Stream.encodeText
  )
  return HttpServerResponse.stream(Stream.orDie(events), {
    contentType: "text/event-stream; charset=utf-8",
    // proxies hold back and rewrite what they take for a document
    headers: { "cache-control": "no-cache, no-transform", "x-accel-buffering": "no" }
  })
})

/** The answer as the request wants it. */
export const respond = (
  wanted: Wanted,
  shape: Shape,
  choices: Choices
): Effect.Effect<HttpServerResponse.HttpServerResponse, ApiError, Scope.Scope> =>
  wanted.stream ? streamed(wanted, shape, choices) : whole(wanted, shape, choices)
