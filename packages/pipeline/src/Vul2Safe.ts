/**
 * The data construction program: vulnerable functions in; triplets, tasks, rejects and an audit sample out.
 *
 * Unusual: what has been paid for is never paid for again. Every sample that is done goes to `dataset/journal.jsonl` at
 * once, keyed by everything its outcome depends on (the sample, the teacher, the analyzers, the options). A later run,
 * after a kill or with a larger limit, takes those from the journal. The other files are written at the end from the
 * outcomes in input order, so they are the same bytes however often the run was cut off.
 *
 * Contract: needs `Teacher`, `Analyzer` and `RunStore`. Fails on what concerns the whole run (transport, budget, no
 * analyzer, a bad input row); what concerns one sample becomes a line of `rejects.jsonl` with its stage and reason.
 */
import { Analyzer, type AnalyzerError } from "@srcode/codeql"
import { type DatasetError, hash32, type Selection, Syntax } from "@srcode/dataset"
import { type CurriculumOrder, Reject, Sample, Triplet, UserError } from "@srcode/domain"
import { hashJson, RunStore, type StoreError } from "@srcode/store"
import { Teacher, type TeacherError } from "@srcode/teacher"
import { Effect, Schema, Stream } from "effect"
import { curriculum } from "./Curriculum.ts"
import { type Outcome, repairSample } from "./internal/repairSample.ts"

export interface Vul2SafeProgress {
  /** Samples finished, of `limit` when one is given. */
  readonly done: number
  readonly limit: number | null
  readonly accepted: number
  /** Of `done`, those taken from the journal. */
  readonly reused: number
}

export interface Vul2SafeOptions<E = never, R = never> {
  readonly samples: Stream.Stream<Selection, E, R>
  /** Number of samples to take; null (default) takes all. */
  readonly limit?: number | null
  /** Repair rounds per sample, ≥ 1. Default 3. */
  readonly maxRounds?: number
  /** For the audit sample and the task order. Default 0. */
  readonly seed?: number
  /** Share in [0, 1] of the triplets laid before a person. Default 0.05. */
  readonly auditShare?: number
  /** Samples in work at once. Default 2. Does not change any output. */
  readonly concurrency?: number
  /** Default `reject`: a patch that no analyzer could read is not vouched for. */
  readonly whenNotAnalysed?: "reject" | "accept"
  /**
   * `whenUnrepaired` lets the data set's real fix (a paired row's twin) stand in where the teacher has no repair; it
   * skips reflection and passes the gate and the prompt filter like any other. Default `never`.
   */
  readonly twins?: "never" | "whenUnrepaired"
  readonly order?: CurriculumOrder
  readonly onProgress?: (progress: Vul2SafeProgress) => Effect.Effect<void>
}

export interface Vul2SafeSummary {
  readonly samples: number
  readonly reused: number
  readonly triplets: number
  readonly tasks: number
  readonly audit: number
  /** By `stage/reason`. */
  readonly rejects: Readonly<Record<string, number>>
  /** Teacher cost in US dollars of the triplets made, journal included. */
  readonly cost: number
  /** Paths written, relative to the run directory. */
  readonly outputs: ReadonlyArray<string>
}

/** One line of the review file: a person fills `decision` (and `note`) and runs the stage again. */
export const AuditEntry = Schema.Struct({
  tripletId: Schema.String,
  decision: Schema.NullOr(Schema.Literals(["accept", "reject"])),
  note: Schema.String,
  cwe: Schema.String,
  explanation: Schema.String,
  vulnerable: Schema.String,
  secure: Schema.String
})
export type AuditEntry = typeof AuditEntry.Type

const JournalEntry = Schema.Struct({
  key: Schema.String,
  /** Asked again by the next run. */
  retry: Schema.Boolean,
  triplet: Schema.NullOr(Triplet),
  reject: Schema.NullOr(Reject)
})
type JournalEntry = typeof JournalEntry.Type

export const vul2safeFiles = {
  journal: "dataset/journal.jsonl",
  samples: "dataset/samples.jsonl",
  triplets: "dataset/triplets.jsonl",
  rejects: "dataset/rejects.jsonl",
  tasks: "dataset/tasks.jsonl",
  audit: "audit.jsonl"
} as const

/** Samples that need no selection (the embedded corpus, a test) as the program's input. */
export const asSelections = <E, R>(samples: Stream.Stream<Sample, E, R>): Stream.Stream<Selection, E, R> =>
  Stream.map(samples, (sample): Selection => ({ _tag: "Kept", line: 0, sample }))

const checkOptions = Effect.fnUntraced(function* (options: Vul2SafeOptions<unknown, unknown>) {
  const { limit = null, maxRounds = 3, seed = 0, auditShare = 0.05, concurrency = 2 } = options
  const isCount = (value: number) => Number.isSafeInteger(value) && value >= 1
  const problem =
    limit !== null && !isCount(limit)
      ? `limit is ${limit}; give a whole number of at least 1`
      : !isCount(maxRounds)
        ? `maxRounds is ${maxRounds}; give a whole number of at least 1`
        : !isCount(concurrency)
          ? `concurrency is ${concurrency}; give a whole number of at least 1`
          : !Number.isSafeInteger(seed)
            ? `seed is ${seed}; give a whole number`
            : !(auditShare >= 0 && auditShare <= 1)
              ? `auditShare is ${auditShare}; give a share between 0 and 1`
              : null
  if (problem !== null) return yield* new UserError({ message: problem })
  const whenNotAnalysed = options.whenNotAnalysed ?? "reject"
  const { order = "progressive", twins = "never" } = options
  return { limit, maxRounds, seed, auditShare, concurrency, whenNotAnalysed, twins, order }
})

/** Ends the stream with the `limit`-th kept sample; dropped rows on the way pass through. */
const takeKept =
  (limit: number | null) =>
  <E, R>(selections: Stream.Stream<Selection, E, R>): Stream.Stream<Selection, E, R> => {
    if (limit === null) return selections
    return selections.pipe(
      Stream.mapAccum(
        () => 0,
        (count, selection) => {
          const next = selection._tag === "Kept" ? count + 1 : count
          return [next, [{ selection, last: next >= limit }]] as const
        }
      ),
      Stream.takeUntil(({ last }) => last),
      Stream.map(({ selection }) => selection)
    )
  }

type Done =
  | { readonly _tag: "Dropped"; readonly reject: Reject }
  | { readonly _tag: "Sample"; readonly sample: Sample; readonly outcome: Outcome }

const outcomeOf = (entry: JournalEntry): Outcome | null =>
  entry.triplet !== null
    ? { _tag: "Accepted", triplet: entry.triplet }
    : entry.reject !== null
      ? { _tag: "Rejected", reject: entry.reject, retry: entry.retry }
      : null

/** Repairs every sample or takes it from the journal, and appends what is new to it. Results are in input order. */
const processAll = Effect.fnUntraced(function* <E, R>(
  options: Vul2SafeOptions<E, R>,
  settings: Effect.Success<ReturnType<typeof checkOptions>>
) {
  const store = yield* RunStore
  const teacher = yield* Teacher
  const tools = yield* (yield* Analyzer).describe
  const { maxRounds, whenNotAnalysed, twins, limit } = settings
  const keyOf = (sample: Sample) =>
    hashJson({ sample, teacher: teacher.name, tools, maxRounds, whenNotAnalysed, twins })

  const journal = yield* store.appender(vul2safeFiles.journal, JournalEntry)
  const known = new Map<string, Outcome>()
  yield* store.readLines(vul2safeFiles.journal, JournalEntry, { allowEmpty: true }).pipe(
    Stream.runForEach((entry) =>
      Effect.sync(() => {
        const outcome = outcomeOf(entry)
        if (outcome !== null && !entry.retry) known.set(entry.key, outcome)
      })
    )
  )

  const counts = { done: 0, accepted: 0, reused: 0 }
  const finish = (outcome: Outcome, reused: boolean) => {
    counts.done++
    if (outcome._tag === "Accepted") counts.accepted++
    if (reused) counts.reused++
    return options.onProgress?.({ ...counts, limit }) ?? Effect.void
  }
  const one = Effect.fnUntraced(function* (selection: Selection) {
    if (selection._tag === "Dropped") {
      const { sampleId, source, reason, detail } = selection
      const dropped: Done = {
        _tag: "Dropped",
        reject: { sampleId, source, stage: "select", reason, detail, candidate: null }
      }
      return dropped
    }
    const { sample } = selection
    const key = keyOf(sample)
    const earlier = known.get(key)
    const outcome: Outcome = earlier ?? (yield* repairSample(sample, { maxRounds, whenNotAnalysed, twins }))
    if (earlier === undefined) {
      yield* journal.append({
        key,
        retry: outcome._tag === "Rejected" && outcome.retry,
        triplet: outcome._tag === "Accepted" ? outcome.triplet : null,
        reject: outcome._tag === "Rejected" ? outcome.reject : null
      })
    }
    yield* finish(outcome, earlier !== undefined)
    const done: Done = { _tag: "Sample", sample, outcome }
    return done
  })
  const done = yield* options.samples.pipe(
    takeKept(limit),
    Stream.mapEffect(one, { concurrency: settings.concurrency }),
    Stream.runCollect
  )
  return { done, reused: counts.reused }
}, Effect.scoped)

/** What a person decided in an earlier review file; a line that is not readable is an error that names it. */
const readDecisions = Effect.fnUntraced(function* () {
  const store = yield* RunStore
  if (!(yield* store.exists(vul2safeFiles.audit))) return new Map<string, AuditEntry>()
  const entries = yield* Stream.runCollect(store.readLines(vul2safeFiles.audit, AuditEntry, { allowEmpty: true }))
  return new Map(entries.filter((entry) => entry.decision !== null).map((entry) => [entry.tripletId, entry]))
})

const auditReject = (triplet: Triplet, note: string): Reject => ({
  sampleId: triplet.provenance.sampleId,
  source: triplet.provenance.source,
  stage: "audit",
  reason: "person",
  detail: note,
  candidate: triplet.secure
})

/** Builds the data set in the run directory. Running it again continues or repeats it at no cost. */
export const vul2safe = Effect.fn("vul2safe")(function* <E, R>(
  options: Vul2SafeOptions<E, R>
): Effect.fn.Return<
  Vul2SafeSummary,
  E | UserError | StoreError | TeacherError | AnalyzerError | DatasetError,
  R | Teacher | Analyzer | RunStore
> {
  const settings = yield* checkOptions(options)
  const store = yield* RunStore
  const decisions = yield* readDecisions()
  const { done, reused } = yield* processAll(options, settings).pipe(Effect.provide(Syntax.layer))

  const samples = done.flatMap((one) => (one._tag === "Sample" ? [one.sample] : []))
  const made = done.flatMap((one) =>
    one._tag === "Sample" && one.outcome._tag === "Accepted" ? [one.outcome.triplet] : []
  )
  const refused = (triplet: Triplet) => decisions.get(triplet.id)?.decision === "reject"
  const triplets = made.filter((triplet) => !refused(triplet))
  const rejects = done.flatMap((one): ReadonlyArray<Reject> => {
    if (one._tag === "Dropped") return [one.reject]
    if (one.outcome._tag === "Rejected") return [one.outcome.reject]
    const { triplet } = one.outcome
    return refused(triplet) ? [auditReject(triplet, decisions.get(triplet.id)?.note ?? "")] : []
  })
  // By the triplet's own hash, so a sample stays in or out of the audit when others come and go.
  const isAudited = (triplet: Triplet) =>
    decisions.has(triplet.id) || hash32(`${settings.seed}/audit/${triplet.id}`) / 2 ** 32 < settings.auditShare
  const audit = made.filter(isAudited).map(
    (triplet): AuditEntry => ({
      tripletId: triplet.id,
      decision: decisions.get(triplet.id)?.decision ?? null,
      note: decisions.get(triplet.id)?.note ?? "",
      cwe: triplet.cwe,
      explanation: triplet.explanation,
      vulnerable: triplet.vulnerable,
      secure: triplet.secure
    })
  )

  yield* store.writeLines(vul2safeFiles.samples, Sample, Stream.fromIterable(samples))
  yield* store.writeLines(vul2safeFiles.triplets, Triplet, Stream.fromIterable(triplets))
  yield* store.writeLines(vul2safeFiles.rejects, Reject, Stream.fromIterable(rejects))
  yield* store.writeLines(vul2safeFiles.audit, AuditEntry, Stream.fromIterable(audit))
  const tasks = yield* curriculum({ order: settings.order, seed: settings.seed })

  const counts: Record<string, number> = {}
  for (const { stage, reason } of rejects) counts[`${stage}/${reason}`] = (counts[`${stage}/${reason}`] ?? 0) + 1
  const { journal: _, ...written } = vul2safeFiles
  return {
    samples: samples.length,
    reused,
    triplets: triplets.length,
    tasks: tasks.tasks,
    audit: audit.length,
    rejects: counts,
    cost: made.reduce((sum, triplet) => sum + triplet.provenance.cost, 0),
    outputs: Object.values(written)
  }
})
