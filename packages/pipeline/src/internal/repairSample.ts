/**
 * One vulnerable function on its way to a triplet: repair ⇄ reflection, gate, prompts. The answer is a triplet or a
 * reject with stage and reason; errors are only those that concern the whole run (no network, no budget, no analyzer).
 */
import { Analyzer } from "@srcode/codeql"
import { filterPrompts, type GateOptions, gate, Syntax, withoutWhitespace } from "@srcode/dataset"
import type { Analysis, CweId, Reject, Sample, Triplet } from "@srcode/domain"
import { sameCweFamily } from "@srcode/domain"
import { type Reflection, type Repair, type RepairRequest, Teacher, type TeacherError } from "@srcode/teacher"
import { Effect } from "effect"

export interface RepairOptions extends GateOptions {
  readonly maxRounds: number
  /** `whenUnrepaired`: where the teacher has no repair, the project's own fix takes its place, without reflection. */
  readonly twins: "never" | "whenUnrepaired"
}

export type Outcome =
  | { readonly _tag: "Accepted"; readonly triplet: Triplet }
  | {
      readonly _tag: "Rejected"
      readonly reject: Reject
      /** True when the refusal may be the set-up's fault, so a later run asks again. */
      readonly retry: boolean
    }

const rejected = (
  sample: Sample,
  stage: Reject["stage"],
  reason: string,
  detail: string,
  candidate: string | null,
  retry = false
): Outcome => ({
  _tag: "Rejected",
  reject: { sampleId: sample.id, source: sample.source, stage, reason, detail, candidate },
  retry
})

/** Errors that concern this sample alone; null for those of the whole run. */
const ownFault = (error: TeacherError): { readonly reason: string; readonly retry: boolean } | null => {
  const { reason } = error
  switch (reason._tag) {
    case "NoRepair":
      return { reason: "no-repair", retry: false }
    case "NotParsed":
      return { reason: "not-parsed", retry: false }
    case "BadAnswer":
      return { reason: "bad-answer", retry: false }
    case "Rejected":
      // A request the server will not take is most often too long; a wrong set-up looks the same, so it is asked again.
      return [400, 413, 422].includes(reason.status) ? { reason: "refused", retry: true } : null
    default:
      return null
  }
}

/** Turns the sample's own teacher errors into its outcome and leaves the run's as errors. */
const orReject =
  (sample: Sample, stage: Reject["stage"], candidate: string | null) =>
  <A, R>(effect: Effect.Effect<A, TeacherError, R>): Effect.Effect<A | Outcome, TeacherError, R> =>
    effect.pipe(
      Effect.catch((error): Effect.Effect<Outcome, TeacherError> => {
        const own = ownFault(error)
        return own === null
          ? Effect.fail(error)
          : Effect.succeed(rejected(sample, stage, own.reason, error.message, candidate, own.retry))
      })
    )

const isOutcome = (value: object): value is Outcome =>
  "_tag" in value && (value._tag === "Accepted" || value._tag === "Rejected")

/** The class the triplet is about: the teacher's where it fits the row, else the row's. */
const settleCwe = (sample: Sample, claimed: CweId): CweId =>
  sample.cwes.includes(claimed)
    ? claimed
    : (sample.cwes.find((cwe) => sameCweFamily(cwe, claimed)) ?? sample.cwes[0] ?? claimed)

interface Accepted {
  readonly repair: Repair
  readonly cwe: CweId
  readonly rounds: number
  readonly cost: number
  /** Who wrote the repair. */
  readonly author: string
}

/** The project's own fix as the repair, for a sample that has one. */
const fromTwin = (sample: Sample): Accepted | null => {
  const [cwe] = sample.cwes
  if (sample.twin === null || cwe === undefined) return null
  const { commitMessage, dataset, project } = sample.source
  const explanation = commitMessage.trim() === "" ? `the fix made by ${project}` : commitMessage.trim()
  return { repair: { code: sample.twin, explanation, cwe, cost: 0 }, cwe, rounds: 1, cost: 0, author: `${dataset} fix` }
}

const converse = Effect.fnUntraced(function* (sample: Sample, maxRounds: number) {
  const teacher = yield* Teacher
  const { language, code } = sample
  let critique: string | null = null
  let last: string | null = null
  let cost = 0
  for (let round = 1; round <= maxRounds; round++) {
    const request: RepairRequest = {
      language,
      code,
      cwes: sample.cwes,
      advisory: sample.source.cveDescription,
      critique
    }
    const repair: Repair | Outcome = yield* teacher.repair(request).pipe(orReject(sample, "repair", last))
    if (isOutcome(repair)) return repair
    cost += repair.cost
    // A teacher that repeats itself after criticism will do so for ever.
    if (last !== null && withoutWhitespace(last) === withoutWhitespace(repair.code))
      return rejected(sample, "reflect", "repeated", critique ?? "the same proposal again", repair.code)
    last = repair.code
    const cwe = settleCwe(sample, repair.cwe)
    const reflection: Reflection | Outcome = yield* teacher
      .reflect({ language, original: code, patched: repair.code, cwe })
      .pipe(orReject(sample, "reflect", repair.code))
    if (isOutcome(reflection)) return reflection
    if (reflection.accepted) {
      const accepted: Accepted = { repair, cwe, rounds: round, cost, author: teacher.name }
      return accepted
    }
    critique = reflection.critique
  }
  return rejected(sample, "reflect", "not-accepted", critique ?? "", last)
})

const missingAnalysis = (snippetId: string): Analysis => ({
  _tag: "NotAnalysed",
  snippetId,
  reason: "the analyzer gave no answer"
})

/** Runs one sample to its end. The sample is vulnerable; others are rejected at stage `select`. */
export const repairSample = Effect.fn("Vul2Safe.repairSample")(function* (sample: Sample, options: RepairOptions) {
  if (!sample.vulnerable) return rejected(sample, "select", "not-vulnerable", "the row is the fixed side", null)
  const teacher = yield* Teacher
  const analyzer = yield* Analyzer
  const syntax = yield* Syntax
  const { language, code } = sample
  const answer: Accepted | Outcome = yield* converse(sample, options.maxRounds)
  const accepted = isOutcome(answer) && options.twins === "whenUnrepaired" ? (fromTwin(sample) ?? answer) : answer
  if (isOutcome(accepted)) return accepted
  const { repair, cwe, rounds, cost } = accepted

  const ids = [`${sample.id}/before`, `${sample.id}/after`] as const
  const analyses = yield* analyzer.analyze([
    { id: ids[0], language, code },
    { id: ids[1], language, code: repair.code }
  ])
  const [before, after] = ids.map((id) => analyses.find((one) => one.snippetId === id) ?? missingAnalysis(id))
  if (before === undefined || after === undefined) return yield* Effect.die("two ids give two analyses")
  const verdict = gate(
    {
      language,
      cwe,
      original: yield* syntax.parse(language, code),
      patched: yield* syntax.parse(language, repair.code),
      twin: sample.twin === null ? null : yield* syntax.parse(language, sample.twin),
      before,
      after
    },
    options
  )
  if (verdict._tag === "Failed") return rejected(sample, "gate", verdict.reason, verdict.detail, repair.code)

  const proposed = yield* teacher
    .implicitPrompts({ language, vulnerable: code, secure: repair.code, cwe })
    .pipe(orReject(sample, "prompts", repair.code))
  if ("_tag" in proposed) return proposed
  const advisory = sample.source.cveDescription
  const { kept, leaks } = filterPrompts(proposed, { cwe, advisory, vulnerable: code, secure: repair.code })
  for (const kind of ["requirement", "prefix"] as const) {
    if (kept.some((prompt) => prompt.kind === kind)) continue
    const leak = leaks.find((one) => one.kind === kind)
    const reason = leak === undefined ? "missing-kind" : "leak"
    const detail = leak === undefined ? `no ${kind} prompt` : `${kind}: ${leak.reason} (${leak.detail})`
    return rejected(sample, "prompts", reason, detail, repair.code)
  }

  const triplet: Triplet = {
    id: sample.id,
    language,
    cwe,
    prompts: kept,
    vulnerable: code,
    secure: repair.code,
    explanation: repair.explanation,
    provenance: {
      sampleId: sample.id,
      source: sample.source,
      cwe,
      rounds,
      teacher: accepted.author,
      cost,
      before,
      after,
      twinSimilarity: verdict.twinSimilarity
    }
  }
  const outcome: Outcome = { _tag: "Accepted", triplet }
  return outcome
})
