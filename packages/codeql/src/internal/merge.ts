/**
 * One finding per flaw: several tools (and one tool by several rules) report the same flaw a line apart and under sibling
 * classes. Findings of one CWE family within two lines become one, with all tools and classes named.
 */
import { cweFamily, type Finding, severityRank } from "@srcode/domain"

const near = 2

export const mergeFindings = (findings: ReadonlyArray<Finding>): ReadonlyArray<Finding> => {
  const merged: Array<Finding> = []
  const inOrder = findings.toSorted(
    (a, b) => (a.line ?? 0) - (b.line ?? 0) || severityRank(b.severity) - severityRank(a.severity)
  )
  for (const finding of inOrder) {
    const index = merged.findIndex((other) => sameFlaw(other, finding))
    const other = merged[index]
    if (other === undefined) merged.push(finding)
    else merged[index] = combine(other, finding)
  }
  return merged
}

const sameFlaw = (a: Finding, b: Finding): boolean =>
  Math.abs((a.line ?? 0) - (b.line ?? 0)) <= near &&
  (a.line === null) === (b.line === null) &&
  (a.cwes.length === 0 && b.cwes.length === 0
    ? a.ruleId === b.ruleId
    : a.cwes.some((x) => b.cwes.some((y) => cweFamily(x) === cweFamily(y))))

/** Location and wording of the more severe one (the earlier one on a tie). */
const combine = (a: Finding, b: Finding): Finding => {
  const [main, other] = severityRank(b.severity) > severityRank(a.severity) ? [b, a] : [a, b]
  return {
    ...main,
    tool: [...new Set([...main.tool.split("+"), ...other.tool.split("+")])].join("+"),
    cwes: [...new Set([...main.cwes, ...other.cwes])]
  }
}
