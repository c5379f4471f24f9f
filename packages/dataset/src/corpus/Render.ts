/** Filling the holes of a family's texts: names and constants, the choices of a requirement, and indentation. */
import type { Random } from "../Random.ts"
import type { Family } from "./Family.ts"

export type Bindings = Readonly<Record<string, string>>

/**
 * Draws every hole of a family. Equal identifiers within one problem are drawn again, because two parameters of one
 * name do not compile; equal numbers are fine.
 */
export const drawBindings = (random: Random, family: Family): Bindings => {
  const bound: Record<string, string> = {}
  const taken = new Set<string>()
  for (const [hole, pool] of Object.entries(family.names)) {
    const free = pool.filter((word) => !taken.has(word))
    const word = free[random.below(Math.max(1, free.length))] ?? pool[0]
    bound[hole] = word
    if (/^[a-z_]/i.test(word)) taken.add(word)
  }
  return bound
}

/** Replaces `{hole}` by its binding; text in braces that is no hole stays. */
export const fill = (text: string, bindings: Bindings): string =>
  text.replace(/\{([a-z]\w*)\}/gi, (whole, hole: string) => bindings[hole] ?? whole)

/** Resolves each `[a|b|c]` of a requirement to one of its parts. */
export const choose = (random: Random, text: string): string =>
  text.replace(/\[([^\][|]*(?:\|[^\][|]*)+)\]/g, (_, parts: string) => {
    const options = parts.split("|")
    return options[random.below(options.length)] ?? ""
  })

/** The lines of a body as the model writes them: a newline, two blanks per open brace, the function's closing brace. */
export const layOut = (code: string): string => {
  let depth = 1
  const lines = code.split("\n").map((line) => {
    if (line.startsWith("}")) depth--
    const laid = "  ".repeat(depth) + line
    if (line.endsWith("{")) depth++
    return laid
  })
  return `\n${lines.join("\n")}\n}`
}
