/** Text to the process's streams as it is, without a line end: answers that arrive piece by piece. */
import { Effect, Stdio, Stream } from "effect"

/** Waits until the text is taken; a reader that went away ends nothing. */
export const print = Effect.fnUntraced(function* (text: string) {
  const stdio = yield* Stdio.Stdio
  yield* Stream.run(Stream.make(text), stdio.stdout({ endOnDone: false })).pipe(Effect.ignore)
})

/** All of standard input as text. */
export const readStdin = Effect.gen(function* () {
  const stdio = yield* Stdio.Stdio
  return yield* stdio.stdin.pipe(Stream.decodeText, Stream.mkString)
})
