/** Writes the evaluation list. Run by hand, once per new list: `node src/corpus/writeEvalPrompts.ts`. */
import { NodeRuntime, NodeServices } from "@effect/platform-node"
import { Effect, FileSystem } from "effect"
import { drawEvalPrompts, evalPromptsPath } from "./EvalPrompts.ts"

/** Of no meaning, and not to be changed lightly: rates of different lists cannot be compared. */
export const evalSeed = 20_260

const write = Effect.gen(function* () {
  const files = yield* FileSystem.FileSystem
  const lines = drawEvalPrompts(evalSeed).map((prompt) => `${JSON.stringify(prompt)}\n`)
  const temporary = `${evalPromptsPath}.new`
  yield* files.writeFileString(temporary, lines.join(""))
  yield* files.rename(temporary, evalPromptsPath)
  yield* Effect.log(`wrote ${lines.length} prompts to ${evalPromptsPath}`)
})

if (import.meta.main) NodeRuntime.runMain(write.pipe(Effect.provide(NodeServices.layer)))
