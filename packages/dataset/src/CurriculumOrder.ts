/**
 * The orders of the data-order ablation, and splits that keep groups whole. Pure and seeded: the result depends only on
 * the set of tasks, the order's name and the seed, not on how the tasks arrived.
 */
import type { CurriculumOrder, Task, TaskKind } from "@srcode/domain"
import { hash32, makeRandom } from "./Random.ts"

const kindRank: Record<TaskKind, number> = { detect: 0, repair: 1, generate: 2 }

const byId = (a: Task, b: Task): number => (a.id < b.id ? -1 : a.id > b.id ? 1 : 0)
const byKind = (a: Task, b: Task): number => kindRank[a.kind] - kindRank[b.kind]

/**
 * - `progressive`: detect, repair, generate; within a kind from easy to hard
 * - `noRepair`: the same without repair tasks
 * - `shuffledWithinKind`: kinds in that order, shuffled within each
 * - `random`: everything shuffled
 */
export const orderTasks = (tasks: ReadonlyArray<Task>, order: CurriculumOrder, seed: number): ReadonlyArray<Task> => {
  const sorted = [...tasks].sort(byId)
  if (order === "random") return makeRandom(seed, "curriculum/random").shuffle(sorted)
  if (order === "shuffledWithinKind") {
    return (["detect", "repair", "generate"] as const).flatMap((kind) =>
      makeRandom(seed, `curriculum/${kind}`).shuffle(sorted.filter((task) => task.kind === kind))
    )
  }
  const kept = order === "noRepair" ? sorted.filter((task) => task.kind !== "repair") : sorted
  return kept.sort((a, b) => byKind(a, b) || a.difficulty - b.difficulty || byId(a, b))
}

/**
 * Splits by group so that no group stands on both sides. A group goes to `heldOut` when its own seeded hash falls below
 * `fraction`, so adding data never moves an old group; the share is met on average, not exactly.
 */
export const splitByGroup = <A>(
  items: ReadonlyArray<A>,
  groupOf: (item: A) => string,
  fraction: number,
  seed: number
): { readonly kept: ReadonlyArray<A>; readonly heldOut: ReadonlyArray<A> } => {
  const isHeldOut = (item: A) => hash32(`${seed}/split/${groupOf(item)}`) / 2 ** 32 < fraction
  return { kept: items.filter((item) => !isHeldOut(item)), heldOut: items.filter(isHeldOut) }
}
