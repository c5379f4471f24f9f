/**
 * Before a request is looked at: who may ask, and a body that is JSON and not too large.
 *
 * A web page that a user happens to visit can send requests to a server on the user's loopback address. Two checks
 * keep it out: bodies must be declared as JSON, which a page may not do across origins without the server's consent
 * (none is given), and a server without a key answers on loopback only under a loopback name, so that a name that was
 * rebound to 127.0.0.1 gets nothing.
 */
import { createHash, timingSafeEqual } from "node:crypto"
import { ByteSize, Effect, Redacted } from "effect"
import { HttpIncomingMessage, type HttpServerError, type HttpServerRequest } from "effect/http"
import { type ApiError, badRequest, forbidden, tooLarge, unauthorized, unsupportedMediaType } from "../ApiError.ts"
import { isLoopback, type ServeSettings } from "../Settings.ts"

type Request = HttpServerRequest.HttpServerRequest

const digest = (text: string): Buffer => createHash("sha256").update(text).digest()

/** Compares digests, so that neither the length nor the place of the first difference shows in the time. */
export const makeKeyCheck = (
  apiKey: ServeSettings["apiKey"]
): ((request: Request) => Effect.Effect<void, ApiError>) => {
  if (apiKey === null) return () => Effect.void
  const expected = digest(Redacted.value(apiKey))
  return (request) => {
    const given = /^Bearer +(\S+)\s*$/i.exec(request.headers.authorization ?? "")?.[1]
    if (given === undefined)
      return Effect.fail(
        unauthorized("an API key is needed: send it as Authorization: Bearer KEY", {
          code: "missing_api_key",
          headers: { "www-authenticate": "Bearer" }
        })
      )
    return timingSafeEqual(digest(given), expected)
      ? Effect.void
      : Effect.fail(
          unauthorized("the API key is wrong", { code: "invalid_api_key", headers: { "www-authenticate": "Bearer" } })
        )
  }
}

/** The host of `Host: name:port`, brackets kept. */
const hostName = (header: string): string => header.replace(/:\d*$/, "")

/** See the head of this file; servers on other addresses or with a key answer under any name. */
export const makeHostCheck = (settings: ServeSettings): ((request: Request) => Effect.Effect<void, ApiError>) => {
  if (settings.apiKey !== null || !isLoopback(settings.host)) return () => Effect.void
  return (request) =>
    isLoopback(hostName(request.headers.host ?? "localhost"))
      ? Effect.void
      : Effect.fail(
          forbidden("this server answers on localhost; ask for it by that name, or start it with an API key", {
            code: "wrong_host"
          })
        )
}

const tooLargeFor = (limit: number): ApiError =>
  tooLarge(`the body is larger than ${limit} bytes; send less`, {
    code: "request_too_large",
    headers: { connection: "close" }
  })

/** The body as a JSON value. */
export const readJson = Effect.fnUntraced(function* (
  request: Request,
  limit: number
): Effect.fn.Return<unknown, ApiError> {
  const type = request.headers["content-type"] ?? ""
  if (!/^application\/json\s*(;|$)/i.test(type))
    return yield* unsupportedMediaType("the body must be JSON: send Content-Type: application/json")
  if (Number(request.headers["content-length"] ?? 0) > limit) return yield* tooLargeFor(limit)
  const text = yield* request.text.pipe(
    Effect.provideService(HttpIncomingMessage.MaxBodySize, ByteSize.bytes(limit)),
    Effect.mapError((error: HttpServerError.HttpServerError) =>
      error.reason._tag === "RequestParseError" && error.reason.reason === "BodyTooLarge"
        ? tooLargeFor(limit)
        : badRequest("the body could not be read")
    )
  )
  return yield* Effect.try({
    try: (): unknown => JSON.parse(text),
    catch: () => badRequest(text === "" ? "the body is empty; send JSON" : "the body is not valid JSON")
  })
})
