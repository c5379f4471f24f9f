/**
 * From a family to a problem: seeded draws of names, constants, wording and bodies, and the two rules of what is held
 * out. Every function is a pure function of its random source.
 */
import { cwe } from "@srcode/domain"
import { hash32, makeRandom, type Random } from "../Random.ts"
import type { Body, Family } from "./Family.ts"
import { families } from "./families/index.ts"
import { heldOutFamilies, heldOutModulus } from "./HeldOut.ts"
import { type Bindings, choose, drawBindings, fill, layOut } from "./Render.ts"
import type { TinyProblem } from "./TinyProblem.ts"

export const isHeldOutFamily = (name: string): boolean => heldOutFamilies.some((held) => held === name)

/** Whether a prompt is reserved for evaluation: such a prompt is in no training set. */
export const isHeldOutPrompt = (prompt: string): boolean => hash32(prompt) % heldOutModulus === 0

/** Families that supervised tuning and reinforcement may use, and those that they never see. */
export const seenFamilies: ReadonlyArray<Family> = families.filter((family) => !isHeldOutFamily(family.name))
export const unseenFamilies: ReadonlyArray<Family> = families.filter((family) => isHeldOutFamily(family.name))

/** One of the given bodies in a problem's own names, laid out as the model writes it. */
export const drawBody = (random: Random, of: ReadonlyArray<Body>, bindings: Bindings): string =>
  layOut(fill(of[random.below(of.length)]?.code ?? "", bindings))

/** Draws a problem with one body of each kind. Any prompt may come out, reserved ones too. */
export const drawProblem = (random: Random, family: Family): TinyProblem => {
  const bindings = drawBindings(random, family)
  const ask = fill(choose(random, random.pick(family.asks)), bindings)
  const prompt = `// ${ask}\n${fill(family.signature, bindings)} {`
  return {
    id: `${family.name}/${hash32(prompt).toString(16).padStart(8, "0")}`,
    family: family.name,
    cwe: cwe(family.cwe),
    heldOut: isHeldOutFamily(family.name),
    prompt,
    bindings,
    secure: drawBody(random, family.secure, bindings),
    vulnerable: drawBody(random, family.vulnerable, bindings),
    functionalTest: fill(family.functional, bindings),
    securityTest: fill(family.security, bindings)
  }
}

/** Draws until the prompt is (or is not) reserved: about 1 in 8 is, so either ends soon. */
const drawWhere = (random: Random, family: Family, reserved: boolean): TinyProblem => {
  let problem = drawProblem(random, family)
  while (isHeldOutPrompt(problem.prompt) !== reserved) problem = drawProblem(random, family)
  return problem
}

/** A problem that training may see. */
export const drawTraining = (random: Random, family: Family): TinyProblem => drawWhere(random, family, false)

/** A problem reserved for evaluation. */
export const drawEvaluation = (random: Random, family: Family): TinyProblem => drawWhere(random, family, true)

/** `count` turns over families, shuffled anew each round, so that each has the same share. */
export const familyTurns = (random: Random, of: ReadonlyArray<Family>, count: number): ReadonlyArray<Family> => {
  const turns: Array<Family> = []
  while (turns.length < count && of.length > 0) turns.push(...random.shuffle(of))
  return turns.slice(0, count)
}

/** One instance of one body template. */
export interface CorpusTemplate {
  readonly family: string
  readonly vulnerable: boolean
  readonly idiom: string
  /** Place of the body in the family's list of its kind. */
  readonly index: number
  readonly body: string
  readonly problem: TinyProblem
}

/** Every body of every family once, each in a problem drawn for it from `seed`. */
export const corpusTemplates = (seed = 1): ReadonlyArray<CorpusTemplate> =>
  families.flatMap((family) =>
    [false, true].flatMap((vulnerable) =>
      (vulnerable ? family.vulnerable : family.secure).map((body, index) => {
        const problem = drawProblem(makeRandom(seed, `template/${family.name}/${vulnerable}/${index}`), family)
        return {
          family: family.name,
          vulnerable,
          idiom: body.idiom,
          index,
          body: layOut(fill(body.code, problem.bindings)),
          problem
        }
      })
    )
  )
