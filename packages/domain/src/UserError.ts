/**
 * An error whose cause is the caller's input. Packages have their own tagged errors; this one is for a plain message
 * that the terminal prints as one line. `hint` says what to do about it.
 */
import { Schema } from "effect"

export class UserError extends Schema.TaggedError<UserError>()("UserError", {
  message: Schema.String,
  hint: Schema.optionalKey(Schema.String)
}) {}
