/**
 * The benchmark over the embedded corpus: each task is a held-out prompt, each sample is judged by execution.
 *
 * Unusual: it knows neither the corpus nor the judge. Tasks come in as data, and the judge is a function, so the same
 * file measures a real model against a real compiler and a toy against a table. A response that is missing fails its
 * task and stays in the denominator; an error of the judge itself (no sandbox, no compiler) stops the benchmark, since
 * counting it as a failure would report a rate that was never measured.
 */
import type { EvalResult, Rate, SampleOutcome } from "@srcode/domain"
import { Effect } from "effect"
import { isFunctional, isFunctionalAndSecure, isSecure, rateOf } from "./Metrics.ts"

export interface BenchTask {
  readonly id: string
  /** Family of the task. */
  readonly group: string
  readonly prompt: string
  /** True when no training saw the whole family (not only this variation). */
  readonly heldOut: boolean
}

/** What a judge says of one response. */
export interface Judgement {
  readonly compiles: boolean
  readonly functional: boolean
  readonly secure: boolean
  /** One line on what failed; empty when nothing did. */
  readonly detail: string
}

export interface BenchOptions {
  readonly benchmark: string
  /** `base`, `sft`, `rl-none`, `rl-gated`, … */
  readonly arm: string
  readonly seeds: ReadonlyArray<number>
  readonly sampling: EvalResult["sampling"]
}

const missing: Judgement = { compiles: false, functional: false, secure: false, detail: "no response" }

/**
 * Judges the responses (several per task allowed; `responses[task.id]` absent or empty: one failed sample). Outcomes
 * come in task order, then in response order.
 */
export const judgeAll = Effect.fn("TinyBench.judgeAll")(function* <E, R>(
  tasks: ReadonlyArray<BenchTask>,
  responses: ReadonlyMap<string, ReadonlyArray<string>>,
  judge: (task: BenchTask, response: string) => Effect.Effect<Judgement, E, R>,
  options: { readonly concurrency?: number } = {}
) {
  const pairs = tasks.flatMap((task): ReadonlyArray<{ task: BenchTask; response: string | null }> => {
    const given = responses.get(task.id) ?? []
    return given.length === 0 ? [{ task, response: null }] : given.map((response) => ({ task, response }))
  })
  return yield* Effect.forEach(
    pairs,
    ({ task, response }) =>
      Effect.map(
        response === null ? Effect.succeed(missing) : judge(task, response),
        (judgement): SampleOutcome => ({
          taskId: task.id,
          group: task.group,
          prompt: task.prompt,
          response: response ?? "",
          ...judgement
        })
      ),
    { concurrency: options.concurrency ?? 2 }
  )
})

const ratesOf = (prefix: string, outcomes: ReadonlyArray<SampleOutcome>): Record<string, Rate> => ({
  [`${prefix}compiles`]: rateOf(outcomes, (outcome) => outcome.compiles),
  [`${prefix}functional`]: rateOf(outcomes, isFunctional),
  [`${prefix}secure`]: rateOf(outcomes, isSecure),
  [`${prefix}FS@1`]: rateOf(outcomes, isFunctionalAndSecure)
})

/**
 * Rates over all samples, and `heldOut/…` over the families no training saw when there are such tasks. A task without
 * any outcome is added as a failed sample.
 */
export const summarise = (
  tasks: ReadonlyArray<BenchTask>,
  outcomes: ReadonlyArray<SampleOutcome>,
  options: BenchOptions
): EvalResult => {
  const answered = new Set(outcomes.map((outcome) => outcome.taskId))
  const absent = tasks
    .filter((task) => !answered.has(task.id))
    .map(
      (task): SampleOutcome => ({ taskId: task.id, group: task.group, prompt: task.prompt, response: "", ...missing })
    )
  const all = [...outcomes, ...absent]
  const heldOutIds = new Set(tasks.filter((task) => task.heldOut).map((task) => task.id))
  const heldOut = all.filter((outcome) => heldOutIds.has(outcome.taskId))
  return {
    benchmark: options.benchmark,
    arm: options.arm,
    seeds: options.seeds,
    sampling: options.sampling,
    rates: { ...ratesOf("", all), ...(heldOut.length === 0 ? {} : ratesOf("heldOut/", heldOut)) }
  }
}

/** Judges and summarises in one. */
export const runTinyBench = Effect.fn("TinyBench.run")(function* <E, R>(
  tasks: ReadonlyArray<BenchTask>,
  responses: ReadonlyMap<string, ReadonlyArray<string>>,
  judge: (task: BenchTask, response: string) => Effect.Effect<Judgement, E, R>,
  options: BenchOptions & { readonly concurrency?: number }
) {
  const outcomes = yield* judgeAll(tasks, responses, judge, options)
  return { outcomes, result: summarise(tasks, outcomes, options) }
})
