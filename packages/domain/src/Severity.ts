/** How bad a finding is, on CodeQL's and GitHub code scanning's four-step scale. */
import { Schema } from "effect"

export const Severity = Schema.Literals(["low", "medium", "high", "critical"])
export type Severity = typeof Severity.Type

const order: ReadonlyArray<Severity> = ["low", "medium", "high", "critical"]

/** `low` = 0 … `critical` = 3, for comparisons. */
export const severityRank = (severity: Severity): number => order.indexOf(severity)

/** GitHub's mapping of a `security-severity` score in [0, 10]: ≥ 9 critical, ≥ 7 high, ≥ 4 medium, else low. */
export const severityFromScore = (score: number): Severity =>
  score >= 9 ? "critical" : score >= 7 ? "high" : score >= 4 ? "medium" : "low"
