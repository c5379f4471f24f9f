/** A piece of source text and the language it is in. */
import { Schema } from "effect"

export const Language = Schema.Literals(["c", "cpp", "python"])
export type Language = typeof Language.Type

/** One snippet handed to an analyzer or a teacher; `id` is the caller's and comes back with the answer. */
export const Snippet = Schema.Struct({ id: Schema.String, language: Language, code: Schema.String })
export type Snippet = typeof Snippet.Type
