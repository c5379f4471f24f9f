/**
 * Rejects implicit prompts that give the answer away: that name the weakness or security at all, that repeat the
 * advisory, or that contain the fix. Pure. Words and identifiers that stand in the vulnerable code itself are no leak in
 * a code prefix, since the prefix is made of that code.
 */
import type { CweId, ImplicitPrompt } from "@srcode/domain"
import { withoutWhitespace } from "./ContentHash.ts"
import { lineDiff } from "./Diff.ts"

export interface PromptContext {
  readonly cwe: CweId
  readonly advisory: string | null
  readonly vulnerable: string
  readonly secure: string
}

export interface Leak {
  readonly reason: "empty" | "too-long" | "names-id" | "names-security" | "advisory" | "fix" | "whole-function"
  readonly detail: string
}

const securityWords =
  /\b(?:secur\w*|insecur\w*|vulnerab\w*|exploit\w*|attack\w*|malicious\w*|untrusted|hostile|harden\w*|sanit[iy]\w*|overflow\w*|underflow\w*|underrun\w*|overrun\w*|out[- ]of[- ]bounds?|bounds?[- ]check\w*|injection\w*|travers(?:al|als)|use[- ]after[- ]free|double[- ]free|dangling|memory[- ](?:safe\w*|leaks?|corrupt\w*)|null[- ](?:pointer|deref\w*|check\w*)|dereferenc\w*|format[- ]string|race[- ]condition|off[- ]by[- ]one|uninitiali[sz]ed|divi\w+[- ]by[- ]zero|denial[- ]of[- ]service|safe(?:ly|ty)?|unsafe(?:ly)?)\b/gi

const words = (text: string): ReadonlyArray<string> => text.toLowerCase().match(/[a-z_][a-z0-9_.]*|\d+/g) ?? []

/** This many words in a row taken from the advisory are a quotation. */
const quotedWords = 4
/** Added lines shorter than this (without whitespace) are too common to be the fix: `}`, `return;`, `break;`. */
const fixLength = 12

const advisoryLeak = (text: string, context: PromptContext): string | null => {
  const advisory = words(context.advisory ?? "")
  const runs = new Set<string>()
  for (let at = 0; at + quotedWords <= advisory.length; at++) runs.add(advisory.slice(at, at + quotedWords).join(" "))
  const mine = words(text)
  for (let at = 0; at + quotedWords <= mine.length; at++) {
    const run = mine.slice(at, at + quotedWords).join(" ")
    if (runs.has(run)) return run
  }
  return null
}

/** Identifiers and lines that only the fix has. */
const fixLeak = (text: string, context: PromptContext): string | null => {
  const secureLines = context.secure.split("\n")
  const compact = withoutWhitespace(text)
  const vulnerable = withoutWhitespace(context.vulnerable)
  for (const number of lineDiff(context.vulnerable, context.secure).added) {
    const line = withoutWhitespace(secureLines[number - 1] ?? "")
    if (line.length >= fixLength && !vulnerable.includes(line) && compact.includes(line)) return line
  }
  const old = new Set(context.vulnerable.match(/[A-Za-z_]\w*/g) ?? [])
  const fresh = new Set(
    (context.secure.match(/[A-Za-z_]\w*/g) ?? []).filter((name) => !old.has(name) && /[A-Z_0-9]/.test(name))
  )
  return (text.match(/[A-Za-z_]\w*/g) ?? []).find((name) => fresh.has(name)) ?? null
}

/** The first leak found, or null when the prompt may be used. */
export const findLeak = (prompt: ImplicitPrompt, context: PromptContext): Leak | null => {
  const { text } = prompt
  const compact = withoutWhitespace(text)
  if (compact === "") return { reason: "empty", detail: "the prompt has no text" }
  if (text.length > 16_384) return { reason: "too-long", detail: `${text.length} characters` }
  const id = /\b(?:cwe|cve|capec|ghsa)[-_ ]?\d[\w-]*/i.exec(text)
  if (id !== null) return { reason: "names-id", detail: id[0] }
  const known = new Set(prompt.kind === "prefix" ? words(context.vulnerable) : [])
  for (const match of text.matchAll(securityWords))
    if (!words(match[0]).every((word) => known.has(word))) return { reason: "names-security", detail: match[0] }
  const quoted = advisoryLeak(text, context)
  if (quoted !== null && !words(context.vulnerable).join(" ").includes(quoted))
    return { reason: "advisory", detail: quoted }
  const fix = fixLeak(text, context)
  if (fix !== null) return { reason: "fix", detail: fix }
  const whole = [context.vulnerable, context.secure].some((code) => compact.includes(withoutWhitespace(code)))
  if (whole) return { reason: "whole-function", detail: "nothing is left to write" }
  return null
}

/** The prompts that may be used and the leaks of the others, in order. */
export const filterPrompts = (prompts: ReadonlyArray<ImplicitPrompt>, context: PromptContext) => {
  const kept: Array<ImplicitPrompt> = []
  const leaks: Array<Leak & { readonly kind: ImplicitPrompt["kind"] }> = []
  for (const prompt of prompts) {
    const leak = findLeak(prompt, context)
    if (leak === null) kept.push(prompt)
    else leaks.push({ ...leak, kind: prompt.kind })
  }
  return { kept, leaks }
}
