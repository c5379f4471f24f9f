/**
 * Repairs by edits to the source: each finding of a scan carries alternatives; one is kept only when a new scan shows
 * the finding gone, nothing new in its place, and the function's header untouched.
 */
import { type CweId, cwe, sameCweFamily } from "@srcode/domain"
import type { Parser } from "web-tree-sitter"
import { applyEdits } from "./Fix.ts"
import { type Scan, scanSource } from "./Scan.ts"
import type { RuleFinding } from "./Walk.ts"

export interface Repaired {
  readonly code: string
  /** The findings that were repaired, in order. */
  readonly fixed: ReadonlyArray<RuleFinding>
  /** Findings of the wanted classes that are still there. */
  readonly left: ReadonlyArray<RuleFinding>
}

/** Every edit costs a scan, and a scan of a very long function takes a second. */
const mostEdits = (code: string): number => (code.length > 20_000 ? 4 : 24)

/** Undefined when no rule matched, or no alternative helped. `cwes` empty = repair whatever is found. */
export const repairSource = (
  parser: Parser,
  code: string,
  cwes: ReadonlyArray<CweId>
): Repaired | { readonly none: string; readonly unread: boolean } => {
  const first = scanSource(parser, code, { lenient: true, focus: cwes })
  if ("unreadable" in first) return { none: first.unreadable, unread: true }
  const wanted = (finding: RuleFinding): boolean =>
    cwes.length === 0 || cwes.some((id) => sameCweFamily(id, cwe(finding.cwe)))
  let scan = first.scan
  const fixed: Array<RuleFinding> = []
  const given: Set<string> = new Set()
  for (let round = 0; round < mostEdits(code); round++) {
    // A lone program is put in order altogether; in a project's code only the claimed flaw is touched.
    const open = scan.findings.filter((f) => !given.has(identity(f)) && f.fixes.length > 0)
    const next = open.find(wanted) ?? (scan.walk.closed ? open[0] : undefined)
    if (next === undefined) break
    const better = improve(parser, scan, next)
    if (better === undefined) given.add(identity(next))
    else {
      scan = better
      fixed.push(next)
    }
  }
  const left = scan.findings.filter(wanted)
  if (fixed.length === 0)
    return {
      none: first.scan.findings.some(wanted) ? "no rule can mend what was found" : "no rule matches this code",
      unread: false
    }
  return { code: scan.source.slice(first.scan.added), fixed, left }
}

const identity = (finding: RuleFinding): string => `${finding.cwe}:${finding.message}`

/** The first alternative that removes the finding without adding another. */
const improve = (parser: Parser, scan: Scan, finding: RuleFinding): Scan | undefined => {
  for (const edits of finding.fixes) {
    if (edits.length === 0) continue
    const candidate = applyEdits(scan.source, edits)
    const result = scanSource(parser, candidate, { lenient: scan.hasError, focus: scan.walk.focus })
    if ("unreadable" in result) continue
    const after = result.scan
    if (after.header.node.text.slice(0, headLength(after)) !== scan.header.node.text.slice(0, headLength(scan)))
      continue
    if (after.broken !== undefined && scan.broken === undefined) continue
    if (count(after, finding) >= count(scan, finding) || weight(after) >= weight(scan)) continue
    return after
  }
  return undefined
}

const headLength = (scan: Scan): number => scan.header.body.start - scan.header.node.start
const count = (scan: Scan, like: RuleFinding): number =>
  scan.findings.filter((f) => identity(f) === identity(like)).length
const weight = (scan: Scan): number => scan.findings.length
