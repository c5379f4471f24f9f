/** Source data: one function from PrimeVul (or the embedded corpus), normalised and with its origin. */
import { Schema } from "effect"
import { Language } from "./Code.ts"
import { CweId } from "./Cwe.ts"
import { Analysis } from "./Finding.ts"

export const Source = Schema.Struct({
  dataset: Schema.String,
  idx: Schema.String,
  project: Schema.String,
  commitId: Schema.String,
  commitMessage: Schema.String,
  cve: Schema.NullOr(Schema.String),
  cveDescription: Schema.NullOr(Schema.String)
})
export type Source = typeof Source.Type

export const Sample = Schema.Struct({
  /** Content hash (hex) of the whitespace-normalised code: equal ids are duplicates. */
  id: Schema.String,
  source: Source,
  language: Language,
  vulnerable: Schema.Boolean,
  code: Schema.String,
  cwes: Schema.Array(CweId),
  /** The real fixed twin's code where the data set has it (paired PrimeVul), else null. */
  twin: Schema.NullOr(Schema.String)
})
export type Sample = typeof Sample.Type

export const PromptKind = Schema.Literals(["requirement", "prefix"])
export type PromptKind = typeof PromptKind.Type

/** A prompt that leads into the weakness without naming security. */
export const ImplicitPrompt = Schema.Struct({ kind: PromptKind, text: Schema.String })
export type ImplicitPrompt = typeof ImplicitPrompt.Type

/** How a triplet came to be: everything needed to judge or redo it. */
export const Provenance = Schema.Struct({
  sampleId: Schema.String,
  source: Source,
  cwe: CweId,
  rounds: Schema.Int,
  teacher: Schema.String,
  /** Teacher cost in US dollars where prices are configured, else 0. */
  cost: Schema.Finite,
  before: Analysis,
  after: Analysis,
  /** Similarity in [0, 1] of the repair to the real fixed twin, null when there is none. */
  twinSimilarity: Schema.NullOr(Schema.Finite)
})
export type Provenance = typeof Provenance.Type

/** Vul2Safe's product. */
export const Triplet = Schema.Struct({
  id: Schema.String,
  language: Language,
  cwe: CweId,
  prompts: Schema.Array(ImplicitPrompt),
  vulnerable: Schema.String,
  secure: Schema.String,
  explanation: Schema.String,
  provenance: Provenance
})
export type Triplet = typeof Triplet.Type

/** A candidate that did not become a triplet, with the stage and the reason. Nothing rejected is lost. */
export const Reject = Schema.Struct({
  sampleId: Schema.String,
  source: Source,
  stage: Schema.Literals(["select", "repair", "reflect", "gate", "prompts", "audit"]),
  reason: Schema.String,
  detail: Schema.String,
  /** The teacher's last proposal, when there was one. */
  candidate: Schema.NullOr(Schema.String)
})
export type Reject = typeof Reject.Type
