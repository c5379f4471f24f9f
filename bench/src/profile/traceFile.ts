/** Traces as files. */
import { type Recording, traceOf } from "@srcode/gpu"
import { Effect, FileSystem } from "effect"

export const writeTrace = Effect.fnUntraced(function* (file: string, recording: Recording) {
  const fs = yield* FileSystem.FileSystem
  const { displayTimeUnit, traceEvents } = traceOf(recording)
  // One event a line: files of some hundred thousand events are read by people too.
  const events = traceEvents.map((event) => JSON.stringify(event)).join(",\n")
  yield* fs.writeFileString(file, `{"displayTimeUnit":"${displayTimeUnit}","traceEvents":[\n${events}\n]}\n`)
})
