/**
 * The bodies of `/v1/chat/completions` and `/v1/completions`: OpenAI's fields and the extensions that its clients pass
 * through (top_k, min_p, stop_token_ids, chat_template_kwargs). Parsing ends in one plain value, `Wanted`, in which
 * defaults stand; what cannot be served is an `ApiError` that names the field.
 */
import type { ChatMessage } from "@srcode/model"
import { Effect, Result, Schema } from "effect"
import { type ApiError, badRequest } from "./ApiError.ts"
import { chatFields, completionFields, describeIssue } from "./internal/fields.ts"

/** What both kinds of request ask of the sampler and of the answer. */
export interface Wanted {
  readonly model: string
  /** Choices a prompt, ≥ 1. */
  readonly n: number
  readonly stream: boolean
  readonly includeUsage: boolean
  readonly temperature: number
  readonly topP: number
  /** 0 is off. */
  readonly topK: number
  /** 0 is off. */
  readonly minP: number
  /** undefined: a seed of the server's choosing. */
  readonly seed: number | undefined
  /** New tokens at most; undefined: what the context leaves. */
  readonly maxTokens: number | undefined
  readonly stop: ReadonlyArray<string>
  readonly stopIds: ReadonlyArray<number>
  readonly logprobs: boolean
}

export interface ChatRequest {
  readonly wanted: Wanted
  readonly messages: ReadonlyArray<ChatMessage>
  /** Further variables for the template. */
  readonly variables: Readonly<Record<string, unknown>>
}

export interface CompletionRequest {
  readonly wanted: Wanted
  /** Texts, or token ids as they are. */
  readonly prompts: ReadonlyArray<string | ReadonlyArray<number>>
  /** The prompt stands before each answer. */
  readonly echo: boolean
  /** With `logprobs: 1` the most likely token is told too where it is known: at temperature 0 it is the chosen one. */
  readonly topLogprobs: boolean
}

const expected = (text: string) => ({ expected: text })
const between = (minimum: number, maximum: number) =>
  Schema.Finite.check(Schema.isBetween({ minimum, maximum }, expected(`a number from ${minimum} to ${maximum}`)))
const count = Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 2 ** 31 - 1 }, expected("a whole number ≥ 1")))
const tokenId = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 2 ** 31 - 1 }, expected("a token id")))
const stopString = Schema.String.check(Schema.isBetweenLength(1, 1000, expected("a string of 1 to 1000 characters")))

const shared = {
  model: Schema.NonEmptyString,
  n: Schema.optionalKey(
    Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 128 }, expected("a whole number from 1 to 128")))
  ),
  stream: Schema.optionalKey(Schema.Boolean),
  stream_options: Schema.optionalKey(
    Schema.Struct({
      include_usage: Schema.optionalKey(Schema.NullOr(Schema.Boolean)),
      include_obfuscation: Schema.optionalKey(Schema.NullOr(Schema.Literal(false)))
    })
  ),
  temperature: Schema.optionalKey(between(0, 2)),
  top_p: Schema.optionalKey(
    Schema.Finite.check(Schema.isBetween({ minimum: 1e-6, maximum: 1 }, expected("a number above 0 and at most 1")))
  ),
  top_k: Schema.optionalKey(
    Schema.Int.check(
      Schema.isBetween({ minimum: -1, maximum: 2 ** 31 - 1 }, expected("a whole number, 0 or -1 to switch it off"))
    )
  ),
  min_p: Schema.optionalKey(between(0, 1)),
  seed: Schema.optionalKey(
    Schema.Int.check(
      Schema.isBetween(
        { minimum: Number.MIN_SAFE_INTEGER, maximum: Number.MAX_SAFE_INTEGER },
        expected("a whole number of at most 53 bits")
      )
    )
  ),
  max_tokens: Schema.optionalKey(count),
  stop: Schema.optionalKey(
    Schema.Union([stopString, Schema.Array(stopString).check(Schema.isMaxLength(16, expected("at most 16 strings")))])
  ),
  stop_token_ids: Schema.optionalKey(Schema.Array(tokenId).check(Schema.isMaxLength(64, expected("at most 64 ids"))))
}

const TextPart = Schema.Struct({ type: Schema.Literal("text"), text: Schema.String })
const Message = Schema.Struct({
  role: Schema.Literals(["system", "developer", "user", "assistant"]),
  content: Schema.Union([Schema.String, Schema.Array(TextPart)])
})

const chatShape = {
  ...shared,
  messages: Schema.Array(Message).check(Schema.isBetweenLength(1, 4096, expected("1 to 4096 messages"))),
  max_completion_tokens: Schema.optionalKey(count),
  logprobs: Schema.optionalKey(Schema.Boolean),
  chat_template_kwargs: Schema.optionalKey(Schema.Record(Schema.String, Schema.Json))
}
const Chat = Schema.Struct(chatShape)

const completionShape = {
  ...shared,
  prompt: Schema.Union([
    Schema.String,
    Schema.Array(Schema.String).check(Schema.isBetweenLength(1, 128, expected("1 to 128 prompts"))),
    Schema.Array(tokenId).check(Schema.isMinLength(1, expected("at least one token"))),
    Schema.Array(Schema.Array(tokenId)).check(Schema.isBetweenLength(1, 128, expected("1 to 128 prompts")))
  ]),
  logprobs: Schema.optionalKey(Schema.Int),
  echo: Schema.optionalKey(Schema.Boolean),
  best_of: Schema.optionalKey(Schema.Int)
}
const Completion = Schema.Struct(completionShape)

const chatNames = chatFields(Object.keys(chatShape))
const completionNames = completionFields(Object.keys(completionShape))
/** Fields of a message that name something we do not render; null and empty are what clients send back unchanged. */
const messageExtras = ["name", "tool_calls", "tool_call_id", "function_call", "refusal", "audio"]

const decodeOptions = { onExcessProperty: "error" } as const
const decodeChat = Schema.decodeUnknownResult(Chat)
const decodeCompletion = Schema.decodeUnknownResult(Completion)

type Shared = Pick<typeof Chat.Type, keyof typeof shared>

const wantedOf = (body: Shared, maxTokens: number | undefined, logprobs: boolean): Result.Result<Wanted, ApiError> => {
  const stream = body.stream ?? false
  if (!stream && body.stream_options !== undefined)
    return Result.fail(
      badRequest("stream_options is for streams; set stream to true or leave it out", { param: "stream_options" })
    )
  return Result.succeed({
    model: body.model,
    n: body.n ?? 1,
    stream,
    includeUsage: body.stream_options?.include_usage ?? false,
    temperature: body.temperature ?? 1,
    topP: body.top_p ?? 1,
    topK: Math.max(0, body.top_k ?? 0),
    minP: body.min_p ?? 0,
    seed: body.seed,
    maxTokens,
    stop: typeof body.stop === "string" ? [body.stop] : (body.stop ?? []),
    stopIds: body.stop_token_ids ?? [],
    logprobs
  })
}

const isRecord = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === "object" && value !== null && !Array.isArray(value)
const asksNothing = (value: unknown): boolean => value === null || (Array.isArray(value) && value.length === 0)

/** Messages without the empty fields that clients copy from an answer back into the next request. */
const withoutEmptyExtras = (messages: unknown): Result.Result<unknown, ApiError> => {
  if (!Array.isArray(messages)) return Result.succeed(messages)
  const kept: Array<unknown> = []
  for (const [i, message] of messages.entries()) {
    if (!isRecord(message)) {
      kept.push(message)
      continue
    }
    const extra = Object.entries(message).find(([name, value]) => messageExtras.includes(name) && !asksNothing(value))
    if (extra !== undefined) {
      const param = `messages[${i}].${extra[0]}`
      return Result.fail(
        badRequest(`${param} is not supported; write what it says into content`, {
          param,
          code: "unsupported_parameter"
        })
      )
    }
    kept.push(Object.fromEntries(Object.entries(message).filter(([name]) => !messageExtras.includes(name))))
  }
  return Result.succeed(kept)
}

const parseChatResult = (input: unknown): Result.Result<ChatRequest, ApiError> =>
  Result.gen(function* () {
    const fields = yield* chatNames(input)
    const messages = yield* withoutEmptyExtras(fields.messages)
    const body = yield* Result.mapError(decodeChat({ ...fields, messages }, decodeOptions), describeIssue)
    const [old, current] = [body.max_tokens, body.max_completion_tokens]
    if (old !== undefined && current !== undefined && old !== current)
      return yield* Result.fail(
        badRequest("max_tokens and max_completion_tokens differ; give one of them", { param: "max_tokens" })
      )
    return {
      wanted: yield* wantedOf(body, current ?? old, body.logprobs ?? false),
      messages: body.messages.map(
        ({ role, content }): ChatMessage => ({
          role: role === "developer" ? "system" : role,
          content: typeof content === "string" ? content : content.map((part) => part.text).join("")
        })
      ),
      variables: body.chat_template_kwargs ?? {}
    }
  })

const isIds = (prompt: ReadonlyArray<unknown>): prompt is ReadonlyArray<number> => typeof prompt[0] === "number"

const parseCompletionResult = (input: unknown): Result.Result<CompletionRequest, ApiError> =>
  Result.gen(function* () {
    const fields = yield* completionNames(input)
    const body = yield* Result.mapError(decodeCompletion(fields, decodeOptions), describeIssue)
    const logprobs = body.logprobs
    const echo = body.echo ?? false
    if (logprobs !== undefined && (logprobs < 0 || logprobs > 1))
      return yield* Result.fail(
        badRequest("logprobs: only the chosen token's log-probability is given; set it to 0 or 1", {
          param: "logprobs",
          code: "unsupported_parameter"
        })
      )
    if (echo && logprobs !== undefined)
      return yield* Result.fail(
        badRequest("echo with logprobs is not supported: prompts are not scored here; leave one of them out", {
          param: "echo",
          code: "unsupported_parameter"
        })
      )
    if (body.best_of !== undefined && body.best_of !== (body.n ?? 1))
      return yield* Result.fail(
        badRequest("best_of is not supported; ask for n choices and take the best", {
          param: "best_of",
          code: "unsupported_parameter"
        })
      )
    const prompt = body.prompt
    const wanted = yield* wantedOf(body, body.max_tokens ?? 16, logprobs !== undefined)
    return {
      wanted,
      prompts: typeof prompt === "string" || isIds(prompt) ? [prompt] : prompt,
      echo,
      topLogprobs: logprobs === 1 && wanted.temperature === 0
    }
  })

export const parseChat = (input: unknown): Effect.Effect<ChatRequest, ApiError> =>
  Effect.fromResult(parseChatResult(input))

export const parseCompletion = (input: unknown): Effect.Effect<CompletionRequest, ApiError> =>
  Effect.fromResult(parseCompletionResult(input))
