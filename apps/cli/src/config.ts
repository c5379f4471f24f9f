/** Experiment files: JSON decoded by a Schema, where an unknown key is an error and not a silently ignored wish. */
import { UserError } from "@srcode/domain"
import { readJson } from "@srcode/store"
import { Effect, Schema } from "effect"
import { oneLine } from "./errors.ts"

const strict = { onExcessProperty: "error", errors: "all" } as const

/** Decodes a value that came from `file` (named in the message). */
export const decodeStrict = <A, I>(schema: Schema.Codec<A, I>, file: string, value: unknown) =>
  Schema.decodeUnknownEffect(
    schema,
    strict
  )(value).pipe(Effect.mapError((error) => new UserError({ message: `${file}: ${oneLine(error.message, 600)}` })))

/** Reads a configuration file. */
export const readConfig = Effect.fn("readConfig")(function* <A, I>(file: string, schema: Schema.Codec<A, I>) {
  return yield* decodeStrict(schema, file, yield* readJson(file, Schema.Json))
})
