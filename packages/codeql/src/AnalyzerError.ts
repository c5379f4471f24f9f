/**
 * Why no snippet of a request could be analysed. A failure that concerns single snippets (does not parse, crashes a
 * tool, takes too long) is never an error: those snippets come back as `NotAnalysed`, the others with their answers.
 */
import { Schema } from "effect"

/** The tool is missing, too old or unusable here. `install` says what to do. */
export class AnalyzerUnavailable extends Schema.TaggedError<AnalyzerUnavailable>()("AnalyzerUnavailable", {
  detail: Schema.String,
  install: Schema.String
}) {}

/** The machinery around the tools failed (temporary folder not writable, command line tool broken). */
export class AnalyzerFailed extends Schema.TaggedError<AnalyzerFailed>()("AnalyzerFailed", { detail: Schema.String }) {}

export class AnalyzerError extends Schema.TaggedError<AnalyzerError>()("AnalyzerError", {
  reason: Schema.Union([AnalyzerUnavailable, AnalyzerFailed])
}) {
  /** One line for the terminal. */
  override get message(): string {
    const reason = this.reason
    return reason._tag === "AnalyzerUnavailable"
      ? `no analyzer: ${reason.detail}; ${reason.install}`
      : `analysis failed: ${reason.detail}`
  }

  static readonly unavailable = (detail: string, install: string): AnalyzerError =>
    new AnalyzerError({ reason: new AnalyzerUnavailable({ detail, install }) })

  static readonly failed = (detail: string): AnalyzerError =>
    new AnalyzerError({ reason: new AnalyzerFailed({ detail }) })
}
