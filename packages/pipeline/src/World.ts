/**
 * What a run learns from, whatever its source: supervised tasks, prompts for reinforcement, and preference pairs for
 * the reward model. From the embedded corpus or from Vul2Safe's triplets, always as files in `dataset/`.
 */
import { Dataset, families } from "@srcode/dataset"
import { CweId, cwe, Language, Task, Triplet, UserError } from "@srcode/domain"
import { RunStore } from "@srcode/store"
import { Effect, Schema, Stream } from "effect"
import { report } from "./Progress.ts"
import type { RunConfig } from "./RunConfig.ts"
import { vul2safe } from "./Vul2Safe.ts"

/** One prompt with a better and a worse continuation. */
export const Pair = Schema.Struct({
  id: Schema.String,
  group: Schema.String,
  language: Language,
  cwe: CweId,
  prompt: Schema.String,
  secure: Schema.String,
  vulnerable: Schema.String
})
export type Pair = typeof Pair.Type

export interface World {
  /** Detection and repair tasks in curriculum order. */
  readonly supervised: ReadonlyArray<Task>
  /** Generation tasks: prompts for reinforcement, with a reference answer that is only used for its length. */
  readonly generate: ReadonlyArray<Task>
  readonly pairs: ReadonlyArray<Pair>
}

/** Where a prefix prompt stops, both sides go on. */
const pairsOfTriplets = (triplets: ReadonlyArray<Triplet>): ReadonlyArray<Pair> =>
  triplets.map((t) => ({
    id: t.id,
    group: t.provenance.source.commitId,
    language: t.language,
    cwe: t.cwe,
    prompt: "",
    secure: t.secure,
    vulnerable: t.vulnerable
  }))

const embedded = Effect.fn("World.embedded")(function* (config: RunConfig) {
  const store = yield* RunStore
  const cweOf = new Map(families.map((f) => [f.name, cwe(f.cwe)]))
  const source = yield* Dataset
  const rows = yield* source.supervised({ seed: config.seed, count: config.sftRows })
  const supervised = rows.map(
    (row, i): Task => ({
      id: `${row.family}/${row.kind}/${i}`,
      kind: row.kind,
      group: row.family,
      language: "c",
      cwe: cweOf.get(row.family) ?? cwe(119),
      difficulty: 0,
      prompt: row.prompt,
      completion: row.completion
    })
  )
  const problems = yield* source.problems({
    seed: config.seed,
    count: Math.max(config.rl.steps * config.rl.batchSize, 400)
  })
  const generate = problems.map(
    (p): Task => ({
      id: p.id,
      kind: "generate",
      group: p.family,
      language: "c",
      cwe: p.cwe,
      difficulty: 0,
      prompt: p.prompt,
      completion: p.secure
    })
  )
  const pairs = problems.map(
    (p): Pair => ({
      id: p.id,
      group: p.family,
      language: "c",
      cwe: p.cwe,
      prompt: p.prompt,
      secure: p.secure,
      vulnerable: p.vulnerable
    })
  )
  yield* store.writeLines("dataset/tasks.jsonl", Task, Stream.fromIterable([...supervised, ...generate]))
  yield* store.writeLines("dataset/pairs.jsonl", Pair, Stream.fromIterable(pairs))
  yield* report({
    stage: "dataset",
    step: supervised.length + generate.length,
    total: supervised.length + generate.length,
    unit: "tasks"
  })
  return ["dataset/tasks.jsonl", "dataset/pairs.jsonl"]
})

const fromPrimeVul = Effect.fn("World.fromPrimeVul")(function* (config: RunConfig, data: string) {
  const store = yield* RunStore
  const source = yield* Dataset
  const summary = yield* vul2safe({
    samples: source.functions(data),
    limit: config.limit,
    seed: config.seed,
    order: config.order,
    twins: "whenUnrepaired",
    onProgress: (p) =>
      report({ stage: "dataset", step: p.done, total: p.limit, unit: "functions", note: `${p.accepted} accepted` })
  })
  const triplets = yield* Stream.runCollect(store.readLines("dataset/triplets.jsonl", Triplet, { allowEmpty: true }))
  yield* store.writeLines("dataset/pairs.jsonl", Pair, Stream.fromIterable(pairsOfTriplets(triplets)))
  yield* report({
    stage: "dataset",
    step: summary.samples,
    total: summary.samples,
    unit: "functions",
    note: `${summary.triplets} accepted; every reject has its reason in dataset/rejects.jsonl`
  })
  if (summary.triplets === 0) {
    const most = Object.entries(summary.rejects).sort((a, b) => b[1] - a[1])[0]
    return yield* new UserError({
      message: `none of the ${summary.samples} functions of ${data} became a training pair${most ? ` (most often: ${most[0]})` : ""}`,
      hint: "raise --limit, or use a stronger teacher"
    })
  }
  return [...summary.outputs, "dataset/pairs.jsonl"]
})

/** Builds the data set files; returns their paths. */
export const buildWorld = (config: RunConfig) =>
  config.data === null ? embedded(config) : fromPrimeVul(config, config.data)

/** Reads the data set files back. */
export const readWorld = Effect.fn("World.read")(function* () {
  const store = yield* RunStore
  const tasks = yield* Stream.runCollect(store.readLines("dataset/tasks.jsonl", Task))
  const pairs = yield* Stream.runCollect(store.readLines("dataset/pairs.jsonl", Pair))
  const world: World = {
    supervised: tasks.filter((t) => t.kind !== "generate"),
    generate: tasks.filter((t) => t.kind === "generate"),
    pairs
  }
  return world
})
