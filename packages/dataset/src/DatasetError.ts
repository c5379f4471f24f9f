/** What can go wrong with a user's data set or with parsing code. One line, with the file and the line where known. */
import { Schema } from "effect"

export class DatasetError extends Schema.TaggedError<DatasetError>()("DatasetError", {
  reason: Schema.Literals([
    /** The file is not there. */
    "Missing",
    "Unreadable",
    /** No row in it. */
    "Empty",
    /** A line is not UTF-8, not JSON or not a row. */
    "Malformed",
    /** The grammars cannot be loaded: the installation is damaged. */
    "Installation"
  ]),
  message: Schema.String,
  file: Schema.String,
  /** 1-based; null when the whole file is meant. */
  line: Schema.NullOr(Schema.Int)
}) {}
