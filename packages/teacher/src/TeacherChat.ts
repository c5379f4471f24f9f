/**
 * A teacher behind an OpenAI-compatible chat-completions server. Settings: `ChatSettings.ts`.
 *
 * Judgements are asked for as JSON by schema (strongest way the server knows), repairs as a fenced block. An answer that
 * does not decode is asked for again, at most twice, with the error quoted. A verdict that stays unusable is "no
 * signal", spans that stay unusable are none; repairs, reflections and prompts fail with `BadAnswer`.
 */
import { type ImplicitPrompt, noSignal, parseCwe, Severity, type Span, type Verdict } from "@srcode/domain"
import { type Config, Context, Effect, Layer, Schema } from "effect"
import { FetchHttpClient, type HttpClient } from "effect/http"
import { type ChatSettings, chatSettings } from "./ChatSettings.ts"
import { codeIn, jsonIn, type Message, readAnswer } from "./internal/chat/Protocol.ts"
import {
  again,
  implicitPromptsPrompt,
  reflectPrompt,
  repairPrompt,
  spansPrompt,
  templateVersion,
  verdictPrompt
} from "./internal/chat/Templates.ts"
import { makeTransport } from "./internal/chat/Transport.ts"
import { leaks } from "./internal/rules/Prompts.ts"
import { Teacher } from "./Teacher.ts"
import { BadAnswer, type TeacherError, teacherError } from "./TeacherError.ts"
import { TeacherUsage } from "./TeacherUsage.ts"

const ReflectAnswer = Schema.Struct({
  fixed: Schema.Boolean,
  behaviourKept: Schema.Boolean,
  introduced: Schema.NullOr(Schema.String),
  critique: Schema.String
})
const PromptsAnswer = Schema.Struct({ requirement: Schema.NonEmptyString, prefix: Schema.NonEmptyString })
const SpansAnswer = Schema.Struct({
  spans: Schema.Array(
    Schema.Struct({
      quote: Schema.String,
      line: Schema.Int,
      label: Schema.String,
      cwe: Schema.NullOr(Schema.String),
      why: Schema.String
    })
  )
})
const VerdictAnswer = Schema.Struct({
  vulnerable: Schema.NullOr(Schema.Boolean),
  findings: Schema.Array(Schema.Struct({ cwe: Schema.String, severity: Severity, why: Schema.String })),
  reason: Schema.String
})

/** Tries per question, the first one included. */
const tries = 3

type Used<A> = { readonly value: A; readonly cost: number }

const make = Effect.fnUntraced(function* (settings: ChatSettings) {
  const transport = yield* makeTransport(settings)

  /** Asks until `read` makes something of the answer; `read` returns a string to say what is wrong. */
  const converse = Effect.fnUntraced(function* <A>(
    messages: ReadonlyArray<Message>,
    format: { readonly name: string; readonly schema: unknown } | undefined,
    read: (text: string) => Effect.Effect<A, string>
  ) {
    let history = messages
    let cost = 0
    let maxTokens = settings.maxTokens
    let problem = ""
    for (let attempt = 0; attempt < tries; attempt++) {
      const received = yield* transport.send({ messages: history, format, maxTokens })
      cost += received.cost
      const answer = readAnswer(received.completion)
      // Some servers put a constrained answer into the thinking field.
      const text = answer.content !== "" ? answer.content : format === undefined ? "" : answer.reasoning
      if (answer.cut && (answer.content === "" || format === undefined)) {
        problem = `the answer was cut at ${maxTokens} tokens, raise SRCODE_TEACHER_MAX_TOKENS`
        maxTokens *= 2
        continue
      }
      if (text === "") {
        problem = "the answer was empty"
        history = [...messages, again(problem)]
        continue
      }
      const result = yield* Effect.result(read(text))
      if (result._tag === "Success") return { value: result.success, cost } satisfies Used<A>
      problem = result.failure.replace(/\s+/g, " ").trim()
      history = [...messages, { role: "assistant", content: text }, again(problem)]
    }
    return yield* teacherError(new BadAnswer({ attempts: tries, detail: problem.slice(0, 300) }))
  })

  const askJson = <S extends Schema.Codec<unknown, unknown>>(
    name: string,
    schema: S,
    messages: ReadonlyArray<Message>
  ) => {
    const codec: Schema.Codec<S["Type"], unknown> = schema
    return converse(
      messages,
      { name, schema: Schema.toJsonSchemaDocument(schema, { onExcessProperty: "error" }).schema },
      (text) => {
        const json = jsonIn(text)
        return json === undefined
          ? Effect.fail("it holds no JSON value")
          : Schema.decodeUnknownEffect(Schema.fromJsonString(codec))(json).pipe(Effect.mapError((e) => e.message))
      }
    )
  }

  const teacher = Teacher.of({
    name: `chat/${settings.model}@prompts-${templateVersion}`,

    repair: Effect.fn("TeacherChat.repair")(function* (request) {
      const { cost, value } = yield* converse(repairPrompt(request), undefined, (text) => {
        const found = codeIn(text)
        if (found === undefined) return Effect.fail("it holds no closed fenced code block with the function")
        return Effect.succeed(found)
      })
      const said = parseCwe(/CWE[-_ ]?0*\d+/i.exec(value.around)?.[0] ?? "")
      const cwe = said ?? request.cwes[0]
      if (cwe === undefined)
        return yield* teacherError(
          new BadAnswer({ attempts: 1, detail: "the repair names no CWE class and none was claimed" })
        )
      return { code: value.code, explanation: value.around, cwe, cost }
    }),

    reflect: Effect.fn("TeacherChat.reflect")(function* (request) {
      const { value } = yield* askJson("reflection", ReflectAnswer, reflectPrompt(request))
      const { behaviourKept, critique, fixed, introduced } = value
      return { accepted: fixed && behaviourKept && introduced === null, fixed, behaviourKept, introduced, critique }
    }),

    implicitPrompts: Effect.fn("TeacherChat.implicitPrompts")(function* (request) {
      const { value } = yield* converseFiltered(implicitPromptsPrompt(request))
      const prompts: ReadonlyArray<ImplicitPrompt> = [
        { kind: "requirement", text: value.requirement },
        { kind: "prefix", text: value.prefix }
      ]
      return prompts
    }),

    secureSpans: Effect.fn("TeacherChat.secureSpans")(function* (request) {
      const { value } = yield* askJson("spans", SpansAnswer, spansPrompt(request)).pipe(
        whenUnusable({ value: { spans: [] }, cost: 0 })
      )
      return value.spans.map((span): Span => {
        const quote = span.quote.replace(/^\s*\d+\|\s?/, "")
        return {
          quote,
          occurrence: nearest(request.response, quote, span.line),
          label: span.label,
          cwe: span.cwe === null ? null : (parseCwe(span.cwe) ?? null),
          why: span.why
        }
      })
    }),

    verdict: Effect.fn("TeacherChat.verdict")(function* (request) {
      const result = yield* askJson("verdict", VerdictAnswer, verdictPrompt(request)).pipe(whenUnusable(undefined))
      if (result === undefined) return noSignal("the teacher gave no usable verdict")
      const { findings, reason, vulnerable } = result.value
      if (vulnerable === null) return noSignal(reason)
      const cwes = findings.flatMap((f) => parseCwe(f.cwe) ?? [])
      const verdict: Verdict = vulnerable
        ? {
            vulnerable,
            cwes: [...new Set(cwes)],
            severities: findings.length === 0 ? ["medium"] : findings.map((f) => f.severity),
            reason: [reason, ...findings.map((f) => f.why)].join("; ")
          }
        : { vulnerable, cwes: [], severities: [], reason }
      return verdict
    })
  })

  /** Prompts that name security are unusable answers too. */
  const converseFiltered = (messages: ReadonlyArray<Message>) =>
    askJson(
      "prompts",
      PromptsAnswer.check(
        Schema.makeFilter((p) => {
          const told = [p.requirement, p.prefix].find(leaks)
          return told === undefined ? undefined : "a prompt names security, a check, or the weakness"
        })
      ),
      messages
    )

  return Context.make(Teacher, teacher).pipe(Context.add(TeacherUsage, { total: transport.total }))
})

const whenUnusable =
  <B>(instead: B) =>
  <A, R>(effect: Effect.Effect<A, TeacherError, R>): Effect.Effect<A | B, TeacherError, R> =>
    Effect.catchTag(effect, "TeacherError", (error) =>
      error.reason._tag === "BadAnswer" ? Effect.logWarning(error.message).pipe(Effect.as(instead)) : Effect.fail(error)
    )

/** Which appearance of the quote stands nearest to the line the model counted (models miscount). */
const nearest = (text: string, quote: string, line: number): number => {
  if (quote === "") return 0
  let best = { occurrence: 0, distance: Number.POSITIVE_INFINITY }
  for (let at = text.indexOf(quote), n = 0; at >= 0; at = text.indexOf(quote, at + 1), n++) {
    const distance = Math.abs(text.slice(0, at).split("\n").length - line)
    if (distance < best.distance) best = { occurrence: n, distance }
  }
  return best.occurrence
}

/** With an HttpClient of the caller's. */
const layerNoDeps: Layer.Layer<Teacher | TeacherUsage, Config.ConfigError, HttpClient.HttpClient> = Layer.effectContext(
  Effect.flatMap(chatSettings, make)
)

const layer: Layer.Layer<Teacher | TeacherUsage, Config.ConfigError> = layerNoDeps.pipe(
  Layer.provide(FetchHttpClient.layer)
)

export const TeacherChat = { layer, layerNoDeps } as const
