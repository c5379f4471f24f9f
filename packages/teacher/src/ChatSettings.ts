/**
 * What a chat teacher needs to know about its server, from Config (environment variables by default). The key is
 * Redacted and never printed. Prices are US dollars per million tokens; without them every cost is 0.
 *
 *   SRCODE_TEACHER_URL           base URL up to and including `/v1`
 *   SRCODE_TEACHER_MODEL         model id as the server names it
 *   SRCODE_TEACHER_KEY           bearer token; leave out for a server of your own
 *   SRCODE_TEACHER_DIALECT       openai | vllm | deepseek | plain (default openai)
 *   SRCODE_TEACHER_EXTRA         JSON object put into every request, e.g. {"top_k":20} or {"temperature":0.6}
 *   SRCODE_TEACHER_MAX_TOKENS    tokens of one answer, thinking included (default 16384)
 *   SRCODE_TEACHER_CONCURRENCY   requests in flight (default 8)
 *   SRCODE_TEACHER_TIMEOUT       limit of one request (default 20 minutes: hosts keep a queued request open)
 *   SRCODE_TEACHER_ATTEMPTS      attempts per request at faults that pass (default 6)
 *   SRCODE_TEACHER_BACKOFF       first delay; it doubles up to a minute, with full jitter (default 1 second)
 *   SRCODE_TEACHER_BUDGET        stop when this many dollars are spent
 *   SRCODE_TEACHER_PRICE_INPUT, _PRICE_CACHED, _PRICE_OUTPUT
 */
import { Config, Schema } from "effect"

export const Dialect = Schema.Literals(["openai", "vllm", "deepseek", "plain"])
export type Dialect = typeof Dialect.Type

/** How JSON is asked for, strongest first; a server that refuses one is asked with the next. */
export type Tier = "json_schema" | "json_object" | "none"

export interface DialectFlags {
  readonly tiers: readonly [Tier, ...ReadonlyArray<Tier>]
  /** The field that limits the answer's length. */
  readonly lengthField: "max_tokens" | "max_completion_tokens"
}

export const dialects: Readonly<Record<Dialect, DialectFlags>> = {
  openai: { tiers: ["json_schema", "json_object", "none"], lengthField: "max_completion_tokens" },
  vllm: { tiers: ["json_schema", "json_object", "none"], lengthField: "max_tokens" },
  deepseek: { tiers: ["json_object", "none"], lengthField: "max_tokens" },
  plain: { tiers: ["none"], lengthField: "max_tokens" }
}

const price = (name: string) => Config.Finite(`SRCODE_TEACHER_PRICE_${name}`).pipe(Config.withDefault(0))

export const chatSettings = Config.all({
  url: Config.NonEmptyString("SRCODE_TEACHER_URL"),
  model: Config.NonEmptyString("SRCODE_TEACHER_MODEL"),
  key: Config.option(Config.Redacted("SRCODE_TEACHER_KEY")),
  dialect: Config.Literals(Dialect.literals, "SRCODE_TEACHER_DIALECT").pipe(Config.withDefault("openai" as const)),
  extra: Config.schema(Schema.fromJsonString(Schema.Record(Schema.String, Schema.Json)), "SRCODE_TEACHER_EXTRA").pipe(
    Config.withDefault({})
  ),
  maxTokens: Config.Int("SRCODE_TEACHER_MAX_TOKENS").pipe(Config.withDefault(16384)),
  concurrency: Config.Int("SRCODE_TEACHER_CONCURRENCY").pipe(Config.withDefault(8)),
  timeout: Config.Duration("SRCODE_TEACHER_TIMEOUT").pipe(Config.withDefault("20 minutes" as const)),
  attempts: Config.Int("SRCODE_TEACHER_ATTEMPTS").pipe(Config.withDefault(6)),
  backoff: Config.Duration("SRCODE_TEACHER_BACKOFF").pipe(Config.withDefault("1 second" as const)),
  budget: Config.option(Config.Finite("SRCODE_TEACHER_BUDGET")),
  prices: Config.all({ input: price("INPUT"), cached: price("CACHED"), output: price("OUTPUT") })
})
export type ChatSettings = Config.Success<typeof chatSettings>
