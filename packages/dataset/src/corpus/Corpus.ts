/**
 * What the models read: documents for the base model, rows for supervised tuning, prompts for reinforcement. Seeded,
 * pure, the same on every machine.
 *
 * Formats (every border between prompt and answer is a border between tokens, if newlines never merge with what stands
 * before them):
 *   program    `// <requirement>⏎<signature> {` + `⏎  …⏎}`
 *   pair       program + `⏎// again` + `⏎` + program (the same task, another body)
 *   verdict    program + `⏎// verdict:` + ` secure` or ` vulnerable CWE-787`
 * A repair row asks with `<vulnerable program>⏎// again` and answers with `⏎<prompt><secure body>`; a detection row asks
 * with `<program>⏎// verdict:`. No text holds the end token: the trainer appends it to documents and completions.
 *
 * Held out: reserved prompts are in nothing here; the families of `HeldOut.ts` are only in the base corpus, and there
 * never with a verdict.
 */
import { makeRandom } from "../Random.ts"
import { drawBody, drawTraining, familyTurns, seenFamilies } from "./Draw.ts"
import { families } from "./families/index.ts"
import type { TinyProblem } from "./TinyProblem.ts"

export const againMark = "\n// again"
export const verdictMark = "\n// verdict:"

/** Shares of the base corpus: vulnerable bodies among all bodies, pairs and verdicts among all documents. */
export const mixture = { vulnerable: 0.62, pair: 0.12, verdict: 0.08 } as const

const verdict = (problem: TinyProblem, vulnerable: boolean): string =>
  vulnerable ? ` vulnerable ${problem.cwe}` : " secure"

const program = (problem: TinyProblem, vulnerable: boolean): string =>
  problem.prompt + (vulnerable ? problem.vulnerable : problem.secure)

/**
 * `count` documents for the base model. Families have equal shares; each body is vulnerable with the probability of
 * `mixture`, also the two of a pair, independently: a pair carries no hint which kind comes second.
 */
export const pretrainDocuments = (options: {
  readonly seed: number
  readonly count: number
}): ReadonlyArray<string> => {
  const random = makeRandom(options.seed, "pretrain")
  return familyTurns(makeRandom(options.seed, "pretrain/turns"), families, options.count).map((family) => {
    const problem = drawTraining(random, family)
    const vulnerable = random.unit() < mixture.vulnerable
    const first = program(problem, vulnerable)
    const kind = random.unit()
    if (kind < mixture.pair) {
      const of = random.unit() < mixture.vulnerable ? family.vulnerable : family.secure
      return `${first}${againMark}\n${problem.prompt}${drawBody(random, of, problem.bindings)}`
    }
    return kind < mixture.pair + mixture.verdict && !problem.heldOut
      ? `${first}${verdictMark}${verdict(problem, vulnerable)}`
      : first
  })
}

export interface SftRow {
  readonly kind: "detect" | "repair"
  readonly family: string
  readonly prompt: string
  readonly completion: string
}

/** `count` rows of seen families: every third is a detection row (half of them vulnerable), the others repair rows. */
export const sftRows = (options: { readonly seed: number; readonly count: number }): ReadonlyArray<SftRow> => {
  const random = makeRandom(options.seed, "sft")
  return familyTurns(makeRandom(options.seed, "sft/turns"), seenFamilies, options.count).map((family, at): SftRow => {
    const problem = drawTraining(random, family)
    if (at % 3 === 0) {
      const vulnerable = random.below(2) === 0
      return {
        kind: "detect",
        family: problem.family,
        prompt: program(problem, vulnerable) + verdictMark,
        completion: verdict(problem, vulnerable)
      }
    }
    return {
      kind: "repair",
      family: problem.family,
      prompt: program(problem, true) + againMark,
      completion: `\n${program(problem, false)}`
    }
  })
}

/** `count` problems of seen families with distinct prompts, in the order in which reinforcement takes them. */
export const rlPrompts = (options: { readonly seed: number; readonly count: number }): ReadonlyArray<TinyProblem> => {
  const random = makeRandom(options.seed, "rl")
  const prompts = new Set<string>()
  const out: Array<TinyProblem> = []
  // Families with few surface forms run dry before those with many; 50 draws per wanted prompt end the search.
  for (const family of familyTurns(makeRandom(options.seed, "rl/turns"), seenFamilies, 50 * options.count)) {
    if (out.length >= options.count) break
    const problem = drawTraining(random, family)
    if (prompts.has(problem.prompt)) continue
    prompts.add(problem.prompt)
    out.push(problem)
  }
  return out
}
