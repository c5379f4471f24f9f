/**
 * What the server counts, and its Prometheus text. The numbers live in a registry of the server's own, so that two
 * servers in one process do not add up and nothing else is told at `/metrics`.
 */
import type { EngineStats } from "@srcode/model"
import { Effect, Metric } from "effect"
import { PrometheusMetrics } from "effect/observability"

const seconds = Metric.boundariesFromIterable([0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300])
const counter = (name: string, description: string) => Metric.counter(name, { description, incremental: true })
const gauge = (name: string, description: string) => Metric.gauge(name, { description })

const httpRequests = counter("srcode_http_requests_total", "Answers by path and status")
const promptTokens = counter("srcode_prompt_tokens_total", "Tokens of the prompts that were accepted")
const sampledTokens = counter("srcode_sampled_tokens_total", "Tokens of the answers")
const sequences = counter("srcode_sequences_total", "Sequences ended: stop, length, cancelled, error")
const firstToken = Metric.histogram("srcode_time_to_first_token_seconds", {
  description: "From a request's arrival to the first tokens of a sequence",
  boundaries: seconds
})
const requestSeconds = Metric.histogram("srcode_request_seconds", {
  description: "From a request's arrival to the end of its answer",
  boundaries: seconds
})
const gauges = {
  taken: gauge("srcode_sequences_admitted", "Sequences that run or wait"),
  running: gauge("srcode_engine_sequences_running", "Sequences in the running batch"),
  waiting: gauge("srcode_engine_sequences_waiting", "Sequences that wait for a place in the batch"),
  pagesUsed: gauge("srcode_engine_pages_used", "Pages of the key-value cache in use"),
  pagesTotal: gauge("srcode_engine_pages", "Pages of the key-value cache"),
  tokensGenerated: gauge("srcode_engine_tokens_sampled", "Tokens sampled since the start, those cut off included"),
  prefixTokensReused: gauge(
    "srcode_engine_prefix_tokens_reused",
    "Prompt tokens taken from the cache of another sequence"
  )
}

export type Finish = "stop" | "length" | "cancelled" | "error"

export interface ServeMetrics {
  readonly answered: (path: string, status: number) => Effect.Effect<void>
  readonly accepted: (promptTokens: number) => Effect.Effect<void>
  readonly firstToken: (seconds: number) => Effect.Effect<void>
  readonly sequenceEnded: (finish: Finish, sampled: number) => Effect.Effect<void>
  readonly requestEnded: (seconds: number) => Effect.Effect<void>
  /** Prometheus' text format, version 0.0.4. */
  readonly text: (now: { readonly taken: number; readonly engine: EngineStats }) => Effect.Effect<string>
}

export const makeServeMetrics = (): ServeMetrics => {
  const own = Effect.provideService(Metric.MetricRegistry, new Map())
  return {
    answered: (path, status) =>
      own(Metric.update(Metric.withAttributes(httpRequests, { path, status: String(status) }), 1)),
    accepted: (tokens) => own(Metric.update(promptTokens, tokens)),
    firstToken: (value) => own(Metric.update(firstToken, value)),
    sequenceEnded: (finish, sampled) =>
      own(
        Effect.andThen(
          Metric.update(Metric.withAttributes(sequences, { finish }), 1),
          Metric.update(sampledTokens, sampled)
        )
      ),
    requestEnded: (value) => own(Metric.update(requestSeconds, value)),
    text: ({ taken, engine }) =>
      own(
        Effect.gen(function* () {
          yield* Metric.update(gauges.taken, taken)
          yield* Metric.update(gauges.running, engine.running)
          yield* Metric.update(gauges.waiting, engine.waiting)
          yield* Metric.update(gauges.pagesUsed, engine.pagesUsed)
          yield* Metric.update(gauges.pagesTotal, engine.pagesTotal)
          yield* Metric.update(gauges.tokensGenerated, engine.tokensGenerated)
          yield* Metric.update(gauges.prefixTokensReused, engine.prefixTokensReused)
          return yield* PrometheusMetrics.format()
        })
      )
  }
}
