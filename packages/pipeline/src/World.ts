/**
 * What a run learns from, whatever its source: supervised tasks, prompts for reinforcement, and preference pairs for
 * the reward model. From the embedded corpus or from Vul2Safe's triplets, always as files in `dataset/`.
 */
import { Dataset, families, makeRandom, type Random } from "@srcode/dataset"
import { CweId, cwe, Language, Task, Triplet, UserError } from "@srcode/domain"
import { RunStore } from "@srcode/store"
import { Effect, Schema, Stream } from "effect"
import { report } from "./Progress.ts"
import type { RunConfig } from "./RunConfig.ts"
import { vul2safe } from "./Vul2Safe.ts"

/** One prompt with a better continuation (secure and whole) and a worse one (vulnerable, or broken). */
export const Pair = Schema.Struct({
  id: Schema.String,
  group: Schema.String,
  language: Language,
  cwe: CweId,
  prompt: Schema.String,
  better: Schema.String,
  worse: Schema.String
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
    better: t.secure,
    worse: t.vulnerable
  }))

const otherNames = ["acc", "k", "ptr", "tmp", "cap", "sz", "res", "off"] as const

/**
 * A body that no longer belongs to its prompt: one use of a parameter is renamed to something undeclared. Secure or not, such
 * code does not compile; pairs with it keep the reward model from looking at guards alone. Null when no parameter is used.
 */
const brokenBody = (prompt: string, body: string, random: Random): string | null => {
  const signature = prompt.slice(prompt.lastIndexOf("(") + 1)
  const parameters = new Set([...signature.matchAll(/(\w+)\s*(?:,|\))/g)].map((m) => m[1]))
  const uses = [...body.matchAll(/\b[a-z_]\w*\b/g)].filter((m) => parameters.has(m[0]))
  const use = uses[random.below(Math.max(1, uses.length))]
  const name = otherNames.filter((n) => !prompt.includes(n) && !body.includes(n))[random.below(3)]
  return use === undefined || name === undefined
    ? null
    : body.slice(0, use.index) + name + body.slice(use.index + use[0].length)
}

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
  const random = makeRandom(config.seed, "pairs")
  const pairs = problems.flatMap((p, i): ReadonlyArray<Pair> => {
    const pair = { id: p.id, group: p.family, language: "c", cwe: p.cwe, prompt: p.prompt, better: p.secure } as const
    const broken = i % 2 === 0 ? brokenBody(p.prompt, p.secure, random) : null
    return [
      { ...pair, worse: p.vulnerable },
      ...(broken === null ? [] : [{ ...pair, id: `${p.id}/broken`, worse: broken }])
    ]
  })
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
