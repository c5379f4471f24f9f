/** What can go wrong around the embedded corpus; a program that fails its tests is a judgement, never one of these. */
import { SandboxError } from "@srcode/sandbox"
import { Schema } from "effect"

/** No compiler with AddressSanitizer works in the sandbox, so no judgement would mean anything. */
export class JudgeUnavailable extends Schema.TaggedError<JudgeUnavailable>()("JudgeUnavailable", {
  detail: Schema.String
}) {}

/** A file of the package is missing or does not hold what it should: the installation is damaged. */
export class AssetInvalid extends Schema.TaggedError<AssetInvalid>()("AssetInvalid", {
  path: Schema.String,
  detail: Schema.String
}) {}

export class CorpusError extends Schema.TaggedError<CorpusError>()("CorpusError", {
  reason: Schema.Union([JudgeUnavailable, AssetInvalid, SandboxError])
}) {
  /** One line for the terminal. */
  override get message(): string {
    const reason = this.reason
    if (reason._tag === "JudgeUnavailable") {
      return `programs cannot be judged: ${reason.detail}; install gcc 12 or newer with libasan and libubsan`
    }
    return reason._tag === "AssetInvalid"
      ? `${reason.path} cannot be used (${reason.detail}); restore it from the repository`
      : reason.message
  }
}
