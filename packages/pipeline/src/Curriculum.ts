/**
 * PrimeVul+ from triplets: reads `dataset/triplets.jsonl`, writes `dataset/tasks.jsonl` in the asked order. Pure apart
 * from the two files; the same triplets, order and seed give the same bytes.
 */

import { orderTasks, tasksFromTriplets } from "@srcode/dataset"
import { type CurriculumOrder, Task, type TaskKind, Triplet } from "@srcode/domain"
import { RunStore } from "@srcode/store"
import { Effect, Stream } from "effect"

export interface CurriculumOptions {
  readonly order: CurriculumOrder
  readonly seed: number
}

export interface CurriculumSummary {
  readonly tasks: number
  readonly byKind: Readonly<Record<TaskKind, number>>
}

/** Fails with the store's error when the triplets cannot be read (naming the line) or the tasks not written. */
export const curriculum = Effect.fn("curriculum")(function* (options: CurriculumOptions) {
  const store = yield* RunStore
  const triplets = yield* Stream.runCollect(store.readLines("dataset/triplets.jsonl", Triplet, { allowEmpty: true }))
  const tasks = orderTasks(tasksFromTriplets(triplets), options.order, options.seed)
  yield* store.writeLines("dataset/tasks.jsonl", Task, Stream.fromIterable(tasks))
  const count = (kind: TaskKind) => tasks.filter((task) => task.kind === kind).length
  const summary: CurriculumSummary = {
    tasks: tasks.length,
    byKind: { detect: count("detect"), repair: count("repair"), generate: count("generate") }
  }
  return summary
})
