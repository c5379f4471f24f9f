/**
 * Why a job gave no result at all. A program that crashes, loops or is killed is a result (`SandboxResult`), never one
 * of these: a reward must not depend on which of the two a policy can provoke.
 */
import { Schema } from "effect"

/** This machine cannot isolate a process, so nothing was executed. `install` says what to do about it. */
export class SandboxUnavailable extends Schema.TaggedError<SandboxUnavailable>()("SandboxUnavailable", {
  detail: Schema.String,
  install: Schema.String
}) {}

/** The job itself is malformed (a file name that leaves /job, no argv, a NUL byte): the caller's mistake. */
export class InvalidJob extends Schema.TaggedError<InvalidJob>()("InvalidJob", { detail: Schema.String }) {}

/** The isolation was set up wrongly or argv[0] does not exist inside: no instruction of the job ran. */
export class NotStarted extends Schema.TaggedError<NotStarted>()("NotStarted", { detail: Schema.String }) {}

export class SandboxError extends Schema.TaggedError<SandboxError>()("SandboxError", {
  reason: Schema.Union([SandboxUnavailable, InvalidJob, NotStarted])
}) {
  /** One line for the terminal. */
  override get message(): string {
    const reason = this.reason
    if (reason._tag === "SandboxUnavailable") {
      return `cannot execute untrusted code: ${reason.detail}; ${reason.install}`
    }
    return reason._tag === "InvalidJob"
      ? `invalid sandbox job: ${reason.detail}`
      : `sandboxed command did not start: ${reason.detail}`
  }
}
