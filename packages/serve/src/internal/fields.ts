/**
 * The fields of a request, before their values are looked at: which are served, which are accepted only with the value
 * that asks for nothing, and which say nothing about the answer. Everything else is refused by name: an option that is
 * passed over in silence would give another answer than the one asked for.
 */
import { Result, type Schema, SchemaIssue } from "effect"
import { type ApiError, badRequest } from "../ApiError.ts"

type Json = Readonly<Record<string, unknown>>

interface Neutral {
  readonly accepts: (value: unknown) => boolean
  readonly why: string
}

const isRecord = (value: unknown): value is Json => typeof value === "object" && value !== null && !Array.isArray(value)
const isEmpty = (value: unknown): boolean =>
  Array.isArray(value) ? value.length === 0 : isRecord(value) && Object.keys(value).length === 0
const only =
  (...values: ReadonlyArray<unknown>) =>
  (value: unknown): boolean =>
    values.includes(value)

const noTools = "tool calls are not supported; leave it out and describe the tools in the messages"
const noPenalty = "penalties are not supported; leave it out or set it to 0"

const neutralOfBoth: Readonly<Record<string, Neutral>> = {
  frequency_penalty: { accepts: only(0), why: noPenalty },
  presence_penalty: { accepts: only(0), why: noPenalty },
  repetition_penalty: { accepts: only(1), why: "penalties are not supported; leave it out or set it to 1" },
  logit_bias: { accepts: isEmpty, why: "biases are not supported; leave it out" },
  skip_special_tokens: { accepts: only(true), why: "special tokens are always left out of the text" },
  service_tier: { accepts: only("auto", "default"), why: "there is one tier" }
}

const neutralOfChat: Readonly<Record<string, Neutral>> = {
  ...neutralOfBoth,
  tools: { accepts: isEmpty, why: noTools },
  functions: { accepts: isEmpty, why: noTools },
  tool_choice: { accepts: only("none", "auto"), why: noTools },
  function_call: { accepts: only("none", "auto"), why: noTools },
  top_logprobs: {
    accepts: only(0),
    why: "only the chosen token's log-probability is given; leave it out or set it to 0"
  },
  response_format: {
    accepts: (value) => isRecord(value) && value.type === "text",
    why: 'only {"type":"text"} is supported; ask for JSON in the messages'
  },
  modalities: {
    accepts: (value) => Array.isArray(value) && value.every((each) => each === "text"),
    why: "only text is supported"
  },
  audio: { accepts: () => false, why: "only text is supported" },
  prediction: { accepts: () => false, why: "predicted outputs are not supported; leave it out" },
  web_search_options: { accepts: () => false, why: "web search is not supported; leave it out" },
  reasoning_effort: {
    accepts: () => false,
    why: "it is not supported; set what the model's template reads in chat_template_kwargs"
  },
  verbosity: { accepts: only("medium"), why: "it is not supported; ask for it in the messages" },
  store: { accepts: only(false), why: "answers are not stored; leave it out" }
}

const neutralOfCompletions: Readonly<Record<string, Neutral>> = {
  ...neutralOfBoth,
  suffix: { accepts: only(""), why: "text behind the answer is not supported; leave it out" }
}

/** They label a request and leave the answer as it is. */
const inert = ["user", "metadata", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"]

/** Everything in a request that is set to something, or the error that names the first field that cannot be served. */
const checkFields = (
  input: unknown,
  served: ReadonlySet<string>,
  neutral: Readonly<Record<string, Neutral>>
): Result.Result<Json, ApiError> => {
  if (!isRecord(input)) return Result.fail(badRequest("the body must be a JSON object"))
  const kept: Record<string, unknown> = {}
  for (const [name, value] of Object.entries(input)) {
    // null stands for "not given" throughout this API
    if (value === null) continue
    if (served.has(name)) kept[name] = value
    else if (Object.hasOwn(neutral, name)) {
      const rule = neutral[name]
      if (rule !== undefined && !rule.accepts(value))
        return Result.fail(badRequest(`${name}: ${rule.why}`, { param: name, code: "unsupported_parameter" }))
    } else if (name === "parallel_tool_calls" || inert.includes(name)) continue
    else
      return Result.fail(
        badRequest(`unrecognized field ${JSON.stringify(name.slice(0, 80))}; leave it out`, {
          param: name.slice(0, 80),
          code: "unknown_parameter"
        })
      )
  }
  return Result.succeed(kept)
}

const formatIssues = SchemaIssue.makeFormatterStandardSchemaV1()

/** ["messages", 0, "content"] → messages[0].content */
const pathText = (path: ReadonlyArray<unknown>): string =>
  path.reduce<string>((text, key) => {
    const name = String(typeof key === "object" && key !== null && "key" in key ? key.key : key).slice(0, 40)
    return /^\d+$/.test(name) ? `${text}[${name}]` : text === "" ? name : `${text}.${name}`
  }, "")

const oneLine = (text: string): string => text.replace(/\s+/g, " ").trim().slice(0, 300)

/** 400 with the path of the first field whose value is wrong. */
export const describeIssue = (error: Schema.SchemaError): ApiError => {
  const issue = formatIssues(error.issue).issues[0]
  const param = pathText(issue?.path ?? [])
  const text = oneLine(issue?.message ?? "the request is not valid")
  return param === "" ? badRequest(text) : badRequest(`${param}: ${text}`, { param })
}

export const chatFields = (served: ReadonlyArray<string>) => {
  const names = new Set(served)
  return (input: unknown) => checkFields(input, names, neutralOfChat)
}

export const completionFields = (served: ReadonlyArray<string>) => {
  const names = new Set(served)
  return (input: unknown) => checkFields(input, names, neutralOfCompletions)
}
