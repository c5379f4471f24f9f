/**
 * One request to a chat-completions server, to the end: retries at what passes, stops at what does not, counts what it
 * cost. Never retried: 400, 401, 402, 403, 404, 422. A 402 closes the layer's transport for good.
 */
import { Clock, Duration, Effect, Option, Random, Ref, Schema, Semaphore } from "effect"
import { HttpClient, HttpClientRequest } from "effect/http"
import { type ChatSettings, dialects, type Tier } from "../../ChatSettings.ts"
import { OutOfCredit, Rejected, type TeacherError, teacherError, Unreachable } from "../../TeacherError.ts"
import type { Usage } from "../../TeacherUsage.ts"
import { Completion, type Message } from "./Protocol.ts"

export interface Ask {
  readonly messages: ReadonlyArray<Message>
  readonly format: { readonly name: string; readonly schema: unknown } | undefined
  readonly maxTokens: number
}

export interface Received {
  readonly completion: Completion
  /** US dollars of this answer. */
  readonly cost: number
}

export interface Transport {
  readonly send: (ask: Ask) => Effect.Effect<Received, TeacherError>
  readonly total: Effect.Effect<Usage>
}

const longestDelay = 60_000
const longestWait = 600_000
const passing = new Set([408, 409, 425, 429, 500, 502, 503, 504])

/** A fault that may pass: what happened, and when the server wants to be asked again (ms). */
interface Passing {
  readonly detail: string
  readonly retryAfter: number | undefined
}

const oneLine = (text: string): string => text.replace(/\s+/g, " ").trim().slice(0, 300)

export const makeTransport = Effect.fnUntraced(function* (settings: ChatSettings) {
  const client = yield* HttpClient.HttpClient
  const permits = yield* Semaphore.make(Math.max(1, settings.concurrency))
  const closed = yield* Ref.make<string | undefined>(undefined)
  const tier = yield* Ref.make(0)
  const total = yield* Ref.make<Usage>({
    answers: 0,
    promptTokens: 0,
    cachedTokens: 0,
    completionTokens: 0,
    reasoningTokens: 0,
    cost: 0,
    served: []
  })
  const flags = dialects[settings.dialect]
  const url = `${settings.url.replace(/\/+$/, "")}/chat/completions`

  const bill = (completion: Completion) => {
    const { usage } = completion
    const prompt = usage?.prompt_tokens ?? 0
    const cached = usage?.prompt_cache_hit_tokens ?? usage?.prompt_tokens_details?.cached_tokens ?? 0
    const out = usage?.completion_tokens ?? 0
    const { prices } = settings
    const cost = ((prompt - cached) * prices.input + cached * prices.cached + out * prices.output) / 1e6
    const fingerprint = completion.system_fingerprint
    const served = `${completion.model ?? settings.model}${fingerprint == null ? "" : ` (${fingerprint})`}`
    return Ref.update(total, (sum) => ({
      answers: sum.answers + 1,
      promptTokens: sum.promptTokens + prompt,
      cachedTokens: sum.cachedTokens + cached,
      completionTokens: sum.completionTokens + out,
      reasoningTokens: sum.reasoningTokens + (usage?.completion_tokens_details?.reasoning_tokens ?? 0),
      cost: sum.cost + cost,
      served: sum.served.includes(served) ? sum.served : [...sum.served, served]
    })).pipe(Effect.as(cost))
  }

  const body = (ask: Ask, wanted: Tier) => ({
    ...settings.extra,
    model: settings.model,
    messages: ask.messages,
    stream: false,
    [flags.lengthField]: ask.maxTokens,
    ...(ask.format === undefined || wanted === "none"
      ? {}
      : wanted === "json_object"
        ? { response_format: { type: "json_object" } }
        : {
            response_format: {
              type: "json_schema",
              json_schema: { name: ask.format.name, schema: ask.format.schema, strict: true }
            }
          })
  })

  const request = (payload: unknown) => {
    const base = HttpClientRequest.post(url).pipe(
      HttpClientRequest.acceptJson,
      HttpClientRequest.bodyJsonUnsafe(payload)
    )
    return Option.match(settings.key, { onNone: () => base, onSome: (key) => HttpClientRequest.bearerToken(base, key) })
  }

  /** One exchange: a completion, a fault that may pass, or an error that will not. */
  const exchange = Effect.fnUntraced(function* (
    ask: Ask,
    wanted: Tier
  ): Effect.fn.Return<Received | Passing, TeacherError> {
    const response = yield* client.execute(request(body(ask, wanted))).pipe(
      Effect.flatMap((r) => Effect.map(r.text, (text) => ({ status: r.status, headers: r.headers, text }))),
      Effect.timeout(settings.timeout),
      Effect.result
    )
    if (response._tag === "Failure") {
      const { failure } = response
      return { detail: oneLine(failure.message), retryAfter: undefined }
    }
    const { headers, status, text } = response.success
    if (status >= 200 && status < 300) {
      // Under load some servers send blank lines to keep the connection open.
      const decoded = yield* Effect.result(Schema.decodeUnknownEffect(Schema.fromJsonString(Completion))(text.trim()))
      if (decoded._tag === "Failure")
        return { detail: `unusable body: ${oneLine(decoded.failure.message)}`, retryAfter: undefined }
      return { completion: decoded.success, cost: yield* bill(decoded.success) }
    }
    const detail = `${status} ${oneLine(text)}`
    if (passing.has(status)) return { detail, retryAfter: yield* retryAfter(headers["retry-after"]) }
    if (status === 402) {
      yield* Ref.set(closed, `the server answered 402, add credit to the account (${oneLine(text)})`)
      return yield* teacherError(new OutOfCredit({ detail: "the server answered 402, add credit to the account" }))
    }
    return yield* teacherError(new Rejected({ status, detail: oneLine(text) }))
  })

  const pause = Effect.fnUntraced(function* (attempt: number, asked: number | undefined) {
    const ceiling = Math.min(longestDelay, Duration.toMillis(settings.backoff) * 2 ** attempt)
    const jittered = (yield* Random.next) * ceiling
    yield* Effect.sleep(asked === undefined ? jittered : Math.min(longestWait, Math.max(asked, jittered)))
  })

  const send = Effect.fn("TeacherChat.send")(function* (ask: Ask) {
    for (let attempt = 0, last = "no attempt was made"; ; attempt++) {
      if (attempt >= settings.attempts)
        return yield* teacherError(new Unreachable({ attempts: settings.attempts, detail: last }))
      const stopped = yield* Ref.get(closed)
      if (stopped !== undefined) return yield* teacherError(new OutOfCredit({ detail: stopped }))
      const spent = (yield* Ref.get(total)).cost
      if (Option.isSome(settings.budget) && spent >= settings.budget.value)
        return yield* teacherError(
          new OutOfCredit({
            detail: `${spent.toFixed(4)} of ${settings.budget.value} dollars used, raise SRCODE_TEACHER_BUDGET`
          })
        )
      const level = yield* Ref.get(tier)
      const wanted = flags.tiers[level] ?? "none"
      const outcome = yield* permits.withPermit(exchange(ask, wanted)).pipe(
        // A server that does not know this way of asking for JSON is asked the next way, for good.
        Effect.catchTag("TeacherError", (error) =>
          ask.format !== undefined &&
          level + 1 < flags.tiers.length &&
          error.reason._tag === "Rejected" &&
          (error.reason.status === 400 || error.reason.status === 422) &&
          /response_format|json_schema|json_object|schema|guided/i.test(error.reason.detail)
            ? Ref.set(tier, level + 1).pipe(Effect.as("weaker" as const))
            : Effect.fail(error)
        )
      )
      if (outcome === "weaker") {
        attempt -= 1
        continue
      }
      if ("completion" in outcome) return outcome
      last = outcome.detail
      if (attempt + 1 < settings.attempts) yield* pause(attempt, outcome.retryAfter)
    }
  })

  const transport: Transport = { send, total: Ref.get(total) }
  return transport
})

/** Milliseconds of a Retry-After header: seconds, or an HTTP date. */
const retryAfter = Effect.fnUntraced(function* (header: string | undefined) {
  if (header === undefined) return undefined
  const seconds = Number(header)
  if (Number.isFinite(seconds)) return Math.max(0, seconds * 1000)
  const date = Date.parse(header)
  return Number.isNaN(date) ? undefined : Math.max(0, date - (yield* Clock.currentTimeMillis))
})
