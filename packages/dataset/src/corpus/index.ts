/** The embedded world of small C tasks: families, draws, documents, and the judge by execution. */
export * from "./Corpus.ts"
export * from "./CorpusError.ts"
export * from "./CorpusJudge.ts"
export {
  type CorpusTemplate,
  corpusTemplates,
  drawEvaluation,
  drawProblem,
  drawTraining,
  isHeldOutFamily,
  isHeldOutPrompt,
  seenFamilies,
  unseenFamilies
} from "./Draw.ts"
export * from "./EvalPrompts.ts"
export type { Body, Family, Pool } from "./Family.ts"
export { families } from "./families/index.ts"
export { heldOutFamilies, heldOutModulus } from "./HeldOut.ts"
export { type JudgeTask, TinyProblem } from "./TinyProblem.ts"
