/**
 * From a response to the inputs of its rewards: the teacher's secure spans as a token mask, its verdict as severities.
 *
 * Caps against reward hacking that are not arithmetic live here: a response that is cut off, far shorter than its
 * reference, repeats its own lines, or is no UTF-8 earns nothing for its spans. A failed or unusable answer is no signal.
 */
import type { ByteRange, Rollout, Span, Task } from "@srcode/domain"
import type { Tokenizer } from "@srcode/model"
import { isRefusal, resolveSpans, Teacher, type TeacherError, tokenMask } from "@srcode/teacher"
import { Effect } from "effect"

export interface TeacherFeedback {
  readonly secureMask: ReadonlyArray<boolean>
  readonly severities: Rollout["severities"]
  readonly spans: ReadonlyArray<Span>
  /** Quotes that were not found in the response. */
  readonly dropped: number
}

/** Whether more than half of a response's non-trivial lines repeat an earlier one. */
export const isRepetitive = (response: string): boolean => {
  const lines = response
    .split("\n")
    .map((l) => l.trim())
    .filter((l) => l.length > 3)
  return lines.length >= 4 && new Set(lines).size * 2 < lines.length
}

/** Whether a response may earn for its spans at all. */
export const mayEarn = (response: string, reference: string, truncated: boolean): boolean =>
  !truncated && response.trim().length * 4 >= reference.trim().length && !isRepetitive(response)

/**
 * Which tokens hold a rewarded byte. A response whose bytes are no UTF-8 reads as longer text than its tokens are, so
 * positions in one are not positions in the other: it earns nothing.
 */
const maskOf = (
  ranges: ReadonlyArray<ByteRange>,
  response: string,
  ids: ReadonlyArray<number>,
  tokenizer: Tokenizer
): ReadonlyArray<boolean> => {
  const tokens = tokenizer.byteRanges(ids, { continuation: true })
  const body = ids.at(-1) === tokenizer.eosId ? tokens.slice(0, -1) : tokens
  const bytes = new TextEncoder().encode(response).length
  return (body.at(-1)?.end ?? 0) === bytes ? tokenMask(ranges, tokens) : ids.map(() => false)
}

/** Errors that concern one answer are no signal; those that concern the whole run go on. */
const noSignalOn = (error: TeacherError): boolean => error.reason._tag === "BadAnswer" || isRefusal(error)

/** Asks the teacher about one response. `responseIds` may end with the end token, which has no text and earns nothing. */
export const askTeacher = Effect.fn("Feedback.ask")(function* (input: {
  readonly task: Task
  readonly response: string
  readonly responseIds: ReadonlyArray<number>
  readonly truncated: boolean
  readonly tokenizer: Tokenizer
}) {
  const teacher = yield* Teacher
  const { task, response, tokenizer } = input
  const none = (length: number): ReadonlyArray<boolean> => new Array<boolean>(length).fill(false)
  const request = { prompt: task.prompt, response, language: task.language }
  const silent: TeacherFeedback = {
    secureMask: none(input.responseIds.length),
    severities: null,
    spans: [],
    dropped: 0
  }
  return yield* Effect.gen(function* () {
    const verdict = yield* teacher.verdict(request)
    const spans = yield* teacher.secureSpans(request)
    const resolved = resolveSpans(response, spans, task.language)
    const mask = mayEarn(response, task.completion, input.truncated)
      ? maskOf(resolved.ranges, response, input.responseIds, tokenizer)
      : none(input.responseIds.length)
    const severities = verdict.vulnerable === null ? null : verdict.vulnerable ? verdict.severities : []
    const feedback: TeacherFeedback = { secureMask: mask, severities, spans, dropped: resolved.dropped }
    return feedback
  }).pipe(Effect.catchIf(noSignalOn, () => Effect.succeed(silent)))
})
