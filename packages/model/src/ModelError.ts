/**
 * Every way in which model files, tokenizers and model arithmetic fail, as one error with a `reason` union.
 * Each reason names the operation and, where there is one, the file, the tensor and the shapes; `message` is one line
 * that says what to do, fit for a terminal. Tensor names and texts from files are quoted and cut, since they come from
 * outside and may hold anything.
 */
import { Schema } from "effect"

const shared = {
  operation: Schema.String,
  message: Schema.String,
  file: Schema.optionalKey(Schema.String),
  tensor: Schema.optionalKey(Schema.String)
}

/** A file, a tensor or a required setting is not there. */
export class Missing extends Schema.TaggedError<Missing>()("Missing", shared) {}

/** The bytes or the JSON contradict the format or themselves. */
export class Malformed extends Schema.TaggedError<Malformed>()("Malformed", shared) {}

/** Well formed, but asks for something this engine does not do; `option` names it. */
export class Unsupported extends Schema.TaggedError<Unsupported>()("Unsupported", {
  ...shared,
  option: Schema.String
}) {}

/** A tensor has another shape than the model needs. */
export class ShapeMismatch extends Schema.TaggedError<ShapeMismatch>()("ShapeMismatch", {
  ...shared,
  expected: Schema.Array(Schema.Number),
  actual: Schema.Array(Schema.Number)
}) {}

/** A NaN or an infinity where a number must stand. */
export class NotFinite extends Schema.TaggedError<NotFinite>()("NotFinite", {
  ...shared,
  index: Schema.optionalKey(Schema.Int)
}) {}

/** An argument of the caller is out of range (an index, a length, a missing name). */
export class Invalid extends Schema.TaggedError<Invalid>()("Invalid", shared) {}

/** The operating system refused: permission, disk full, not a directory, ... */
export class Io extends Schema.TaggedError<Io>()("Io", shared) {}

export const ModelErrorReason = Schema.Union([Missing, Malformed, Unsupported, ShapeMismatch, NotFinite, Invalid, Io])
export type ModelErrorReason = typeof ModelErrorReason.Type

type Details = {
  readonly operation: string
  readonly message: string
  readonly file?: string
  readonly tensor?: string
}

export class ModelError extends Schema.TaggedError<ModelError>()("ModelError", { reason: ModelErrorReason }) {
  /** One line of bounded length, whatever file names and contents are told in it. */
  override get message(): string {
    // biome-ignore lint/suspicious/noControlCharactersInRegex: these would break the line or steer a terminal
    const line = this.reason.message.replace(/[\u0000-\u001f\u007f-\u009f\u2028\u2029]+/g, " ")
    return line.length > 1500 ? `${line.slice(0, 1499)}\u2026` : line
  }

  static missing(details: Details): ModelError {
    return new ModelError({ reason: new Missing(details) })
  }

  static malformed(details: Details): ModelError {
    return new ModelError({ reason: new Malformed(details) })
  }

  static unsupported(details: Details & { readonly option: string }): ModelError {
    return new ModelError({ reason: new Unsupported(details) })
  }

  /** The message is built here: operation, tensor, both shapes. `hint` ends it. */
  static shape(details: {
    readonly operation: string
    readonly tensor: string
    readonly expected: ReadonlyArray<number>
    readonly actual: ReadonlyArray<number>
    readonly file?: string
    readonly hint?: string
  }): ModelError {
    const { hint, ...fields } = details
    const where = details.file === undefined ? "" : ` in ${details.file}`
    const message =
      `${details.operation}: tensor ${quote(details.tensor)}${where} has shape [${details.actual.join(", ")}], ` +
      `expected [${details.expected.join(", ")}]; ${hint ?? "check that the file belongs to this model's config.json"}`
    return new ModelError({ reason: new ShapeMismatch({ ...fields, message }) })
  }

  static notFinite(details: Details & { readonly index?: number }): ModelError {
    return new ModelError({ reason: new NotFinite(details) })
  }

  static invalid(details: Details): ModelError {
    return new ModelError({ reason: new Invalid(details) })
  }

  static io(details: Details): ModelError {
    return new ModelError({ reason: new Io(details) })
  }
}

/** A name from outside, safe inside a one-line message: quoted, escaped and at most 80 characters. */
export const quote = (text: string): string => JSON.stringify(text.length > 80 ? `${text.slice(0, 77)}...` : text)
