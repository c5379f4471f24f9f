/**
 * The teacher: whoever repairs, criticises, and points at what is secure. A port with several layers behind it:
 * `TeacherRules` (embedded), `TeacherChat` (a chat-completions server), `TeacherReplay` (recorded answers).
 *
 * Contract. `code` is a whole function; `prompt + response` together are one program (the response starts where the
 * prompt ends and both are given verbatim). Spans quote exact substrings of `response` only. A verdict with
 * `vulnerable: null` is "no signal": mask the sample; it never earns a reward. `cost` is in US dollars.
 */
import { CweId, ImplicitPrompt, Language, Span, Verdict } from "@srcode/domain"
import { Context, type Effect, Layer, Schema } from "effect"
import type { TeacherError } from "./TeacherError.ts"

export const RepairRequest = Schema.Struct({
  language: Language,
  code: Schema.String,
  /** The claimed classes; empty = unknown. */
  cwes: Schema.Array(CweId),
  /** What is publicly known about the flaw (a CVE's text), or null. */
  advisory: Schema.NullOr(Schema.String),
  /** The reflection's criticism of the previous attempt, or null on the first. */
  critique: Schema.NullOr(Schema.String)
})
export type RepairRequest = typeof RepairRequest.Type

export const Repair = Schema.Struct({
  code: Schema.String,
  explanation: Schema.String,
  cwe: CweId,
  cost: Schema.Finite
})
export type Repair = typeof Repair.Type

export const ReflectRequest = Schema.Struct({
  language: Language,
  original: Schema.String,
  patched: Schema.String,
  cwe: CweId
})
export type ReflectRequest = typeof ReflectRequest.Type

/** `accepted` is `fixed && behaviourKept && introduced === null`, decided by the layer, never by the model's own word. */
export const Reflection = Schema.Struct({
  accepted: Schema.Boolean,
  fixed: Schema.Boolean,
  behaviourKept: Schema.Boolean,
  introduced: Schema.NullOr(Schema.String),
  critique: Schema.String
})
export type Reflection = typeof Reflection.Type

export const ImplicitPromptsRequest = Schema.Struct({
  language: Language,
  vulnerable: Schema.String,
  secure: Schema.String,
  cwe: CweId
})
export type ImplicitPromptsRequest = typeof ImplicitPromptsRequest.Type

export const ResponseRequest = Schema.Struct({ prompt: Schema.String, response: Schema.String, language: Language })
export type ResponseRequest = typeof ResponseRequest.Type

/** The codecs of every method, by name: what a recording or a remote call stores. */
export const TeacherMethods = {
  repair: { request: RepairRequest, answer: Repair },
  reflect: { request: ReflectRequest, answer: Reflection },
  implicitPrompts: { request: ImplicitPromptsRequest, answer: Schema.Array(ImplicitPrompt) },
  secureSpans: { request: ResponseRequest, answer: Schema.Array(Span) },
  verdict: { request: ResponseRequest, answer: Verdict }
} as const
export type TeacherMethod = keyof typeof TeacherMethods

export interface TeacherShape {
  /** Goes into every triplet's provenance. */
  readonly name: string
  /** Fails with `NoRepair` when none is known. The patch keeps the function's signature. */
  repair(request: RepairRequest): Effect.Effect<Repair, TeacherError>
  reflect(request: ReflectRequest): Effect.Effect<Reflection, TeacherError>
  /** At least one prompt of each kind; none names security. */
  implicitPrompts(request: ImplicitPromptsRequest): Effect.Effect<ReadonlyArray<ImplicitPrompt>, TeacherError>
  secureSpans(request: ResponseRequest): Effect.Effect<ReadonlyArray<Span>, TeacherError>
  verdict(request: ResponseRequest): Effect.Effect<Verdict, TeacherError>
}

export class Teacher extends Context.Service<Teacher, TeacherShape>()("@srcode/teacher/Teacher") {
  /** A teacher of the given methods only; calling another one is a defect that names it. */
  static readonly layerTest = (partial: Partial<TeacherShape>): Layer.Layer<Teacher> =>
    Layer.mock(Teacher, { ...partial, name: partial.name ?? "test" })
}

/** The only verdict that may earn a sequence reward: judged, and found secure. No signal never does. */
export const earnsCredit = (verdict: Verdict): boolean => verdict.vulnerable === false
