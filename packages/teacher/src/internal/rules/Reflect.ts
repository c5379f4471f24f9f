/** A second look at a repair: both versions are scanned, and what they call and return is compared. */
import { type CweId, cwe, sameCweFamily } from "@srcode/domain"
import type { Reflection } from "../../Teacher.ts"
import { findAll } from "./Ast.ts"
import type { Scan } from "./Scan.ts"

/** Calls that a repair may replace, and by what. */
const stands: Readonly<Record<string, RegExp>> = {
  strcpy: /^(snprintf|strlcpy|memcpy|strncpy|strdup)$/,
  strcat: /^(snprintf|strlcat|strncat)$/,
  sprintf: /^snprintf$/,
  strncpy: /^(snprintf|strlcpy|memcpy)$/,
  gets: /^fgets$/,
  malloc: /^(calloc|realloc|strdup)$/,
  printf: /^(fputs|puts)$/
}

const calls = (scan: Scan): ReadonlyArray<string> =>
  findAll(scan.header.body, "call_expression").flatMap((c) => c.children[0]?.text ?? [])

const headOf = (scan: Scan): string =>
  scan.source.slice(scan.header.node.start, scan.header.body.start).replace(/\s+/g, "")

export const compareScans = (original: Scan, patched: Scan, claimed: CweId): Reflection => {
  const family = (scan: Scan) => scan.findings.filter((f) => sameCweFamily(cwe(f.cwe), claimed))
  const [had, has] = [family(original), family(patched)]
  const gained = patched.constructs.some(
    (c) =>
      sameCweFamily(cwe(c.cwe), claimed) &&
      !original.constructs.some((o) => original.source.slice(o.start, o.end) === patched.source.slice(c.start, c.end))
  )
  // In a lone program nothing else can be what was meant.
  const cleared = original.walk.closed && original.findings.length > 0 && patched.findings.length === 0
  const fixed = has.length === 0 && (had.length > 0 || gained || cleared)
  const lost = missing(original, patched)
  const behaviourKept = lost === undefined
  const fresh = patched.findings.find(
    (f) =>
      patched.findings.filter((g) => g.cwe === f.cwe).length > original.findings.filter((g) => g.cwe === f.cwe).length
  )
  const introduced =
    patched.broken !== undefined && original.broken === undefined
      ? patched.broken
      : fresh === undefined
        ? null
        : `CWE-${fresh.cwe}: ${fresh.message}`
  const complaints = [
    ...has.map((f) => `still there: ${f.message}`),
    ...(fixed || has.length > 0 ? [] : [`nothing was seen to change about ${claimed}`]),
    ...(lost === undefined ? [] : [lost]),
    ...(introduced === null ? [] : [`introduced: ${introduced}`])
  ]
  return {
    accepted: fixed && behaviourKept && introduced === null,
    fixed,
    behaviourKept,
    introduced,
    critique: complaints.length === 0 ? "the flaw is gone and nothing else changed" : complaints.join("; ")
  }
}

/** What the patch took away, or undefined. */
const missing = (original: Scan, patched: Scan): string | undefined => {
  if (headOf(original) !== headOf(patched)) return "the signature changed"
  const size = (scan: Scan) => scan.header.body.text.replace(/\s+/g, "").length
  if (size(patched) < 0.6 * size(original)) return "most of the body is gone"
  const kept = calls(patched)
  const gone = calls(original).find(
    (name) => !kept.includes(name) && !kept.some((other) => stands[name]?.test(other) === true)
  )
  if (gone !== undefined) return `the call of ${gone} is gone`
  const returns = (scan: Scan) => findAll(scan.header.body, "return_statement").length
  return returns(patched) < returns(original) ? "a return was removed" : undefined
}
