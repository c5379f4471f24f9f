/**
 * A unit of the PrimeVul+ curriculum. `prompt` is what the model reads, `completion` what it is taught to write; a
 * `generate` task has a completion too (the secure body), used as reference for length and never shown during RL.
 */
import { Schema } from "effect"
import { Language } from "./Code.ts"
import { CweId } from "./Cwe.ts"

export const TaskKind = Schema.Literals(["detect", "repair", "generate"])
export type TaskKind = typeof TaskKind.Type

export const Task = Schema.Struct({
  id: Schema.String,
  kind: TaskKind,
  /** Groups the variations of one problem (family of the embedded corpus, commit of PrimeVul): never split apart. */
  group: Schema.String,
  language: Language,
  cwe: CweId,
  /** In [0, 1]; the progressive order sorts by kind, then by this. */
  difficulty: Schema.Finite,
  prompt: Schema.String,
  completion: Schema.String
})
export type Task = typeof Task.Type

export const CurriculumOrder = Schema.Literals(["progressive", "noRepair", "shuffledWithinKind", "random"])
export type CurriculumOrder = typeof CurriculumOrder.Type
