/**
 * One drawn task of the embedded corpus, complete: what the model reads, one right and one wrong answer, and the tests
 * that decide. A program is `prompt + body`; the prompt ends with ` {` and every body begins with the newline, so the
 * border between them is also a border between tokens.
 */
import { CweId } from "@srcode/domain"
import { Schema } from "effect"

export const TinyProblem = Schema.Struct({
  /** `family/hash of the prompt`. */
  id: Schema.String,
  family: Schema.String,
  cwe: CweId,
  /** The whole family is held out of supervised tuning and reinforcement. */
  heldOut: Schema.Boolean,
  prompt: Schema.String,
  /** What was drawn for each hole of the family (`f` is the function's name). */
  bindings: Schema.Record(Schema.String, Schema.String),
  secure: Schema.String,
  vulnerable: Schema.String,
  /** C statements for the judge, with this problem's names filled in. */
  functionalTest: Schema.String,
  securityTest: Schema.String
})
export type TinyProblem = typeof TinyProblem.Type

/** What the judge needs to know about the task of a program. */
export type JudgeTask = Pick<TinyProblem, "prompt" | "functionalTest" | "securityTest">
