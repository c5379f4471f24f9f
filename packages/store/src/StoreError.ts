/**
 * The one error of this package. `message` is a single line that names the file (and the line where there is one) and
 * says what to do; `reason` is what a program branches on.
 */
import { Schema } from "effect"

export const StoreReason = Schema.Literals([
  /** A file or directory that should be there is not. */
  "Missing",
  /** A directory or file cannot be written: permissions, a file in the way, a full disk. */
  "Unwritable",
  /** A file is there and cannot be read. */
  "Unreadable",
  /** A file has no line where at least one is needed. */
  "Empty",
  /** Content that does not decode: not UTF-8, not JSON, not the schema. */
  "Malformed",
  /** Another live process runs this directory. */
  "Locked",
  /** A stage did not leave an output it promised. */
  "Incomplete"
])
export type StoreReason = typeof StoreReason.Type

export class StoreError extends Schema.TaggedError<StoreError>()("StoreError", {
  reason: StoreReason,
  message: Schema.String,
  file: Schema.String,
  /** 1-based; null when the whole file is meant. */
  line: Schema.NullOr(Schema.Int)
}) {}
