/**
 * The gate every repair has to pass before it becomes training data. Pure: it is given both versions parsed and both
 * analysed, and says yes, or no with a reason.
 *
 * Unusual: "not analysed" is neither a pass nor a fault. Without an analysis of the patch nothing vouches for it, so it
 * is rejected by default with a reason of its own (`whenNotAnalysed: "accept"` is for data whose repairs are vouched for
 * in another way). A finding counts as new when the patch has more findings of its rule than the original had.
 */
import { type Analysis, type CweId, type Finding, type Language, sameCweFamily, severityRank } from "@srcode/domain"
import { tokenSimilarity } from "./Diff.ts"
import { looseHeader, type ParsedCode } from "./Syntax.ts"

export type GateReason =
  | "does-not-parse"
  | "unchanged"
  | "signature-changed"
  | "not-analysed"
  | "finding-remains"
  | "new-finding"

export type GateResult =
  | { readonly _tag: "Passed"; readonly twinSimilarity: number | null }
  | { readonly _tag: "Failed"; readonly reason: GateReason; readonly detail: string }

export interface GateInput {
  readonly language: Language
  /** The class the repair claims to remove. */
  readonly cwe: CweId
  readonly original: ParsedCode
  readonly patched: ParsedCode
  readonly twin: ParsedCode | null
  readonly before: Analysis
  readonly after: Analysis
}

export interface GateOptions {
  readonly whenNotAnalysed?: "reject" | "accept"
}

const failed = (reason: GateReason, detail: string): GateResult => ({ _tag: "Failed", reason, detail })

/** Whether the patch still declares the function of the original, among others perhaps (a new helper, an include). */
export const keepsSignature = (original: ParsedCode, patched: ParsedCode, language: Language): boolean => {
  const header = original.headers[0] ?? looseHeader(original.tokens, language)
  return patched.headers.includes(header) || looseHeader(patched.tokens, language) === header
}

const sameTokens = (a: ParsedCode, b: ParsedCode): boolean =>
  a.tokens.length === b.tokens.length && a.tokens.every((token, index) => token === b.tokens[index])

export const findingsOf = (analysis: Analysis): ReadonlyArray<Finding> =>
  analysis._tag === "Alerts" ? analysis.findings : []

const ruleKey = (finding: Finding): string => `${finding.tool}/${finding.ruleId}`
const countByRule = (findings: ReadonlyArray<Finding>): Map<string, number> => {
  const counts = new Map<string, number>()
  for (const finding of findings) counts.set(ruleKey(finding), (counts.get(ruleKey(finding)) ?? 0) + 1)
  return counts
}
const describe = (finding: Finding): string =>
  `${ruleKey(finding)}${finding.line === null ? "" : ` at line ${finding.line}`}: ${finding.message}`

/** Findings of medium severity or higher whose rule speaks more often on the patch than on the original. */
export const newFindings = (before: Analysis, after: Analysis): ReadonlyArray<Finding> => {
  const had = countByRule(findingsOf(before))
  const has = countByRule(findingsOf(after))
  return findingsOf(after).filter(
    (finding) =>
      severityRank(finding.severity) >= severityRank("medium") &&
      (has.get(ruleKey(finding)) ?? 0) > (had.get(ruleKey(finding)) ?? 0)
  )
}

/** The checks in order of what they cost to judge by hand; the first that fails is the reason. */
export const gate = (input: GateInput, options: GateOptions = {}): GateResult => {
  const { original, patched, before, after } = input
  if (patched.tokens.length === 0) return failed("does-not-parse", "the patch has no code")
  if (patched.errors > original.errors)
    return failed("does-not-parse", `${patched.errors} syntax errors, the original has ${original.errors}`)
  if (sameTokens(original, patched)) return failed("unchanged", "only comments or whitespace differ")
  if (!keepsSignature(original, patched, input.language))
    return failed(
      "signature-changed",
      `expected ${original.headers[0] ?? looseHeader(original.tokens, input.language)}`
    )
  if (after._tag === "NotAnalysed") {
    if (options.whenNotAnalysed !== "accept") return failed("not-analysed", after.reason)
  } else {
    const remaining = findingsOf(after).find((finding) => finding.cwes.some((cwe) => sameCweFamily(cwe, input.cwe)))
    if (remaining !== undefined) return failed("finding-remains", describe(remaining))
    const fresh = newFindings(before, after)[0]
    if (fresh !== undefined) return failed("new-finding", describe(fresh))
  }
  return {
    _tag: "Passed",
    twinSimilarity: input.twin === null ? null : tokenSimilarity(patched.tokens, input.twin.tokens)
  }
}
