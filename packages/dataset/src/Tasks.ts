/**
 * PrimeVul+: tasks of three kinds from triplets. Pure.
 *
 * Per triplet: two `detect` tasks (the vulnerable and the secure side, so that neither answer is the cheap guess), one
 * `repair` task, and one `generate` task per implicit prompt. The group is the commit: a split never separates it.
 */
import type { ImplicitPrompt, Language, Task, Triplet } from "@srcode/domain"
import { lineDiff } from "./Diff.ts"
import { cweShares, tripletDifficulty } from "./Difficulty.ts"

const fence = (language: Language, code: string): string => `\`\`\`${language}\n${code.replace(/\n*$/, "")}\n\`\`\``

/** The answer to a detect task for the vulnerable side: the class, and the line where the repair begins. */
export const detectAnswer = (triplet: Triplet): string => {
  const line = lineDiff(triplet.vulnerable, triplet.secure).firstChange
  const text = line === null ? "" : (triplet.vulnerable.split("\n")[line - 1]?.trim() ?? "")
  return line === null || text === "" ? `vulnerable ${triplet.cwe}` : `vulnerable ${triplet.cwe}\nline ${line}: ${text}`
}

const detectPrompt = (language: Language, code: string): string =>
  `Does this function have a weakness? Answer "secure", or "vulnerable" with its CWE and the line.\n${fence(language, code)}\n`

const repairPrompt = (triplet: Triplet): string =>
  `This function has the weakness ${triplet.cwe}. Write the repaired function and nothing else; keep its signature.\n${fence(triplet.language, triplet.vulnerable)}\n`

/** What is to be written for a generate task: the rest of the secure function where the prompt is its beginning. */
const generateCompletion = (prompt: ImplicitPrompt, secure: string): string =>
  prompt.kind === "prefix" && secure.startsWith(prompt.text) ? secure.slice(prompt.text.length) : secure

const tasksOf = (triplet: Triplet, difficulty: number): ReadonlyArray<Task> => {
  const base = {
    group: `${triplet.provenance.source.project}@${triplet.provenance.source.commitId}`,
    language: triplet.language,
    cwe: triplet.cwe,
    difficulty
  }
  const { id, language, vulnerable, secure } = triplet
  return [
    {
      ...base,
      id: `${id}/detect/vulnerable`,
      kind: "detect",
      prompt: detectPrompt(language, vulnerable),
      completion: detectAnswer(triplet)
    },
    {
      ...base,
      id: `${id}/detect/secure`,
      kind: "detect",
      prompt: detectPrompt(language, secure),
      completion: "secure"
    },
    { ...base, id: `${id}/repair`, kind: "repair", prompt: repairPrompt(triplet), completion: fence(language, secure) },
    ...triplet.prompts.map(
      (prompt, index): Task => ({
        ...base,
        id: `${id}/generate/${prompt.kind}/${index}`,
        kind: "generate",
        prompt: prompt.text,
        completion: generateCompletion(prompt, secure)
      })
    )
  ]
}

/** All tasks, in triplet order; the difficulty takes the rarity of each class among these triplets into account. */
export const tasksFromTriplets = (triplets: ReadonlyArray<Triplet>): ReadonlyArray<Task> => {
  const shares = cweShares(triplets)
  return triplets.flatMap((triplet) => tasksOf(triplet, tripletDifficulty(triplet, shares)))
}
