/**
 * How hard a triplet is, in [0, 1]: a weighted mean of six features, each saturating at 1. Pure.
 *
 * The weights and half-points are this project's choice (the paper names the kinds of feature, not a formula): what has
 * to change counts most, then the code around it, then how hard the teacher found it, then how rare the class is.
 */
import type { CweId, Language, Triplet } from "@srcode/domain"
import { lineDiff } from "./Diff.ts"
import { blankLiterals } from "./Language.ts"

export interface DifficultyFeatures {
  /** Lines removed and added between the two versions. */
  readonly changedLines: number
  readonly hunks: number
  /** Lines of the vulnerable function that are not blank. */
  readonly lines: number
  /** Cyclomatic complexity of the vulnerable function, ≥ 1. */
  readonly complexity: number
  /** Share in [0, 1] of triplets that have this class: rare is hard. */
  readonly cweShare: number
  /** Repair rounds, ≥ 1. Every further round is one disagreement between repair and reflection. */
  readonly rounds: number
}

/** 0 at 0, one half at `half`, towards 1. */
const saturate = (value: number, half: number): number => (value <= 0 ? 0 : value / (value + half))

export const difficultyWeights = { change: 0.25, hunks: 0.15, length: 0.15, complexity: 0.15, rounds: 0.2, rarity: 0.1 }

export const difficulty = (features: DifficultyFeatures): number =>
  difficultyWeights.change * saturate(features.changedLines, 8) +
  difficultyWeights.hunks * saturate(features.hunks - 1, 3) +
  difficultyWeights.length * saturate(features.lines, 60) +
  difficultyWeights.complexity * saturate(features.complexity - 1, 10) +
  difficultyWeights.rounds * saturate(features.rounds - 1, 1) +
  difficultyWeights.rarity * (1 - Math.min(1, Math.max(0, features.cweShare)))

/** One more than the number of decisions, counted from the text (McCabe 1976): exact for plain code, close for macros. */
export const cyclomaticComplexity = (code: string, language: Language): number => {
  const text =
    language === "python"
      ? code.replace(/#[^\n]*|"""[\s\S]*?"""|'''[\s\S]*?'''|"[^"\n]*"|'[^'\n]*'/g, "")
      : blankLiterals(code)
  const decisions =
    language === "python"
      ? /\b(?:if|elif|for|while|except|and|or|case)\b/g
      : /\b(?:if|for|while|case|catch)\b|&&|\|\||\?(?!\?)/g
  return 1 + (text.match(decisions)?.length ?? 0)
}

/** Share of each class among the triplets, for `cweShare`. */
export const cweShares = (triplets: ReadonlyArray<Triplet>): ReadonlyMap<CweId, number> => {
  const counts = new Map<CweId, number>()
  for (const triplet of triplets) counts.set(triplet.cwe, (counts.get(triplet.cwe) ?? 0) + 1)
  return new Map([...counts].map(([cwe, count]) => [cwe, count / triplets.length]))
}

export const tripletDifficulty = (triplet: Triplet, shares: ReadonlyMap<CweId, number>): number => {
  const diff = lineDiff(triplet.vulnerable, triplet.secure)
  return difficulty({
    changedLines: diff.changedLines,
    hunks: diff.hunks,
    lines: triplet.vulnerable.split("\n").filter((line) => line.trim() !== "").length,
    complexity: cyclomaticComplexity(triplet.vulnerable, triplet.language),
    cweShare: shares.get(triplet.cwe) ?? 0,
    rounds: triplet.provenance.rounds
  })
}
