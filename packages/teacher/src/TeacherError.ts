/**
 * What can go wrong when a teacher is asked. One error with a `reason`; every message is one line that says what to do.
 * `isRefusal` separates a teacher's honest "I do not know" from a fault of transport, account or recording.
 */
import { Schema } from "effect"

/** The teacher knows no repair for this code and these classes: the sample becomes a reject, not a failure of the run. */
export class NoRepair extends Schema.TaggedError<NoRepair>()("NoRepair", { detail: Schema.String }) {
  override get message(): string {
    return `no repair is known: ${this.detail}`
  }
}

/** The code is in a language, or so broken, that this teacher cannot read it. */
export class NotParsed extends Schema.TaggedError<NotParsed>()("NotParsed", { detail: Schema.String }) {
  override get message(): string {
    return `the code cannot be read: ${this.detail}`
  }
}

/** The server answered, and the request will fail again however often it is sent. */
export class Rejected extends Schema.TaggedError<Rejected>()("Rejected", {
  status: Schema.Int,
  detail: Schema.String
}) {
  override get message(): string {
    const todo =
      this.status === 401 || this.status === 403
        ? "check SRCODE_TEACHER_KEY"
        : this.status === 404
          ? "check SRCODE_TEACHER_URL and SRCODE_TEACHER_MODEL"
          : "check the model, the dialect flags and the length of the input"
    return `the teacher's server refused with ${this.status}: ${todo} (${this.detail})`
  }
}

/** 402 or the configured budget: nothing more is sent until the layer is built anew. */
export class OutOfCredit extends Schema.TaggedError<OutOfCredit>()("OutOfCredit", { detail: Schema.String }) {
  override get message(): string {
    return `the teacher's budget is spent: ${this.detail}`
  }
}

/** No usable answer after all retries: network, 408/429/5xx, or a body cut short. */
export class Unreachable extends Schema.TaggedError<Unreachable>()("Unreachable", {
  attempts: Schema.Int,
  detail: Schema.String
}) {
  override get message(): string {
    return `the teacher's server gave no answer in ${this.attempts} attempts, check SRCODE_TEACHER_URL or try later (${this.detail})`
  }
}

/** The model answered, but never in the asked shape. */
export class BadAnswer extends Schema.TaggedError<BadAnswer>()("BadAnswer", {
  attempts: Schema.Int,
  detail: Schema.String
}) {
  override get message(): string {
    return `the teacher's answer could not be used after ${this.attempts} tries: ${this.detail}`
  }
}

/** Replay has no recording of this request. */
export class NotRecorded extends Schema.TaggedError<NotRecorded>()("NotRecorded", {
  method: Schema.String,
  key: Schema.String,
  path: Schema.String
}) {
  override get message(): string {
    return `no recorded answer for ${this.method} ${this.key.slice(0, 12)}: record it first, expected at ${this.path}`
  }
}

/** A recording could not be read or written. */
export class Storage extends Schema.TaggedError<Storage>()("Storage", { path: Schema.String, detail: Schema.String }) {
  override get message(): string {
    return `the recording at ${this.path} cannot be used: ${this.detail}`
  }
}

export const TeacherErrorReason = Schema.Union([
  NoRepair,
  NotParsed,
  Rejected,
  OutOfCredit,
  Unreachable,
  BadAnswer,
  NotRecorded,
  Storage
])
export type TeacherErrorReason = typeof TeacherErrorReason.Type

export class TeacherError extends Schema.TaggedError<TeacherError>()("TeacherError", { reason: TeacherErrorReason }) {
  override get message(): string {
    return this.reason.message
  }
}

/** True when the teacher answered "I cannot" (the same request will give the same refusal). */
export const isRefusal = (error: TeacherError): boolean =>
  error.reason._tag === "NoRepair" || error.reason._tag === "NotParsed"

export const teacherError = (reason: TeacherErrorReason): TeacherError => new TeacherError({ reason })
