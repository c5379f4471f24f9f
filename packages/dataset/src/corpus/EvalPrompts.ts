/**
 * The fixed evaluation list: prompts that no training set holds, with all the judge needs. It is a file, drawn once,
 * because a list drawn anew would shift every measured rate by some points whenever the corpus changes.
 */

import { fileURLToPath } from "node:url"
import { Effect, FileSystem, Schema } from "effect"
import { makeRandom } from "../Random.ts"
import { AssetInvalid, CorpusError } from "./CorpusError.ts"
import { drawEvaluation, familyTurns, seenFamilies, unseenFamilies } from "./Draw.ts"
import type { Family } from "./Family.ts"
import { TinyProblem } from "./TinyProblem.ts"

const { bindings: _, secure: __, vulnerable: ___, ...fields } = TinyProblem.fields

/** A problem without answers. */
export const EvalPrompt = Schema.Struct(fields)
export type EvalPrompt = typeof EvalPrompt.Type

/** Prompts of families seen in training, and of families held out of it. */
export const evalCounts = { seen: 160, heldOut: 72 } as const

export const evalPromptsPath: string = fileURLToPath(new URL("../../assets/eval-prompts.jsonl", import.meta.url))

/** Distinct reserved problems, families in turn. Pure; used by the script that writes the file, and by its test. */
export const drawEvalPrompts = (seed: number): ReadonlyArray<EvalPrompt> => [
  ...drawDistinct(seed, "eval/seen", seenFamilies, evalCounts.seen),
  ...drawDistinct(seed, "eval/held-out", unseenFamilies, evalCounts.heldOut)
]

const drawDistinct = (seed: number, stream: string, of: ReadonlyArray<Family>, count: number) => {
  const random = makeRandom(seed, stream)
  const found = new Map<string, EvalPrompt>()
  for (const family of familyTurns(makeRandom(seed, `${stream}/turns`), of, count)) {
    // Each family has more reserved prompts than it needs here (a test counts them), so this ends.
    let problem = drawEvaluation(random, family)
    while (found.has(problem.prompt)) problem = drawEvaluation(random, family)
    const { bindings: _, secure: __, vulnerable: ___, ...kept } = problem
    found.set(problem.prompt, kept)
  }
  return [...found.values()]
}

/** The list in the file, seen families first. */
export const loadEvalPrompts = Effect.fn("loadEvalPrompts")(function* (path: string = evalPromptsPath) {
  const invalid = (detail: string) => new CorpusError({ reason: new AssetInvalid({ path, detail }) })
  const files = yield* FileSystem.FileSystem
  const text = yield* files
    .readFileString(path)
    .pipe(Effect.mapError((error) => invalid(error.message.split("\n")[0]!)))
  const lines = text.split("\n").filter((line) => line !== "")
  if (lines.length === 0) return yield* invalid("it is empty")
  return yield* Effect.forEach(lines, (line, at) =>
    decodeLine(line).pipe(Effect.mapError((error) => invalid(`line ${at + 1}: ${error.message.split("\n")[0]}`)))
  )
})

const decodeLine = Schema.decodeUnknownEffect(Schema.fromJsonString(EvalPrompt))
