/** What a paid teacher has used since its layer was built. Provided beside `Teacher` by `TeacherChat.layer`. */
import { Context, type Effect, Schema } from "effect"

export const Usage = Schema.Struct({
  /** Answers received, each billed, usable or not. */
  answers: Schema.Int,
  promptTokens: Schema.Int,
  /** The part of `promptTokens` that the server had cached. */
  cachedTokens: Schema.Int,
  /** Thinking included. */
  completionTokens: Schema.Int,
  reasoningTokens: Schema.Int,
  /** US dollars, by the configured prices. */
  cost: Schema.Finite,
  /** The models that answered, as the server named them, with its fingerprint where it gives one. */
  served: Schema.Array(Schema.String)
})
export type Usage = typeof Usage.Type

export class TeacherUsage extends Context.Service<
  TeacherUsage,
  {
    readonly total: Effect.Effect<Usage>
  }
>()("@srcode/teacher/TeacherUsage") {}
