/**
 * Measures one model of a run on the embedded benchmark: every held-out prompt is answered once and judged by compiling and
 * running it. With the run's own data, also the share of analysed generations without a finding (Sec.Rate).
 */
import { Analyzer } from "@srcode/codeql"
import { CorpusJudge, Dataset, type EvalPrompt } from "@srcode/dataset"
import { EvalResult, SampleOutcome, type Snippet, type Task } from "@srcode/domain"
import { type BenchTask, rateOf, runTinyBench } from "@srcode/evals"
import { type GeneratorOptions, type Lora, type Model, makeGenerator, promptIds, type Tokenizer } from "@srcode/model"
import { RunStore } from "@srcode/store"
import { Effect, Stream } from "effect"
import { functionBody, generatorFor, respond } from "./Generated.ts"
import { longestSequence, openAdapter, openBase, openTuned } from "./Models.ts"
import { report } from "./Progress.ts"
import type { EvaluationConfig, RunConfig } from "./RunConfig.ts"
import { readWorld } from "./World.ts"

/** `base`, `sft`, or `rl-<preset>`. */
export type Arm = string

const openArm = Effect.fnUntraced(function* (config: RunConfig, arm: Arm) {
  if (arm === "base") return { ...(yield* openBase(config)), lora: null }
  const open = yield* openTuned(config)
  const lora: Lora | null = arm === "sft" ? null : yield* openAdapter(open.model, `rl/${arm.slice(3)}/adapter`)
  return { ...open, lora }
})

/** Evenly spread choice of `limit` prompts, so that all families stay in. */
const spread = <A>(items: ReadonlyArray<A>, limit: number | null): ReadonlyArray<A> =>
  limit === null || limit >= items.length
    ? items
    : Array.from({ length: limit }, (_, i) => items[Math.floor((i * items.length) / limit)]).filter(
        (x): x is A => x !== undefined
      )

export interface MeasuredModel {
  readonly model: Model
  readonly tokenizer: Tokenizer
  readonly lora: Lora | null
}

/** One sample a prompt from an engine with room for these prompts. */
const answer = Effect.fnUntraced(function* (
  open: MeasuredModel,
  prompts: ReadonlyArray<string>,
  engine: GeneratorOptions,
  { evaluation, seed }: Pick<RunConfig, "evaluation" | "seed">
) {
  const { temperature, topP, maxTokens } = evaluation
  return yield* respond({
    generator: yield* makeGenerator(open.model.decoder, engine),
    tokenizer: open.tokenizer,
    lora: open.lora,
    prompts,
    sampling: { temperature, topP, maxTokens, seed }
  })
})

const lengthsOf = (tokenizer: Tokenizer, prompts: ReadonlyArray<{ readonly prompt: string }>): ReadonlyArray<number> =>
  prompts.map(({ prompt }) => promptIds(tokenizer, prompt).length)

/** What `measure` asks and the engine it takes, for an adapter of `rank` (0: none); a memory plan allocates the same engine. */
export const planMeasure = Effect.fn("Evaluate.plan")(function* (tokenizer: Tokenizer, evaluation: EvaluationConfig) {
  const { benchmark } = yield* Dataset
  const prompts = spread(yield* benchmark, evaluation.limit)
  const lengths = lengthsOf(tokenizer, prompts)
  const { maxTokens } = evaluation
  return { prompts, engine: (rank: number) => generatorFor(lengths, { maxTokens, rank: Math.max(1, rank) }) }
})

/** The embedded benchmark for any open model. */
export const measure = Effect.fn("Evaluate.measure")(function* (
  open: MeasuredModel,
  arm: Arm,
  config: Pick<RunConfig, "evaluation" | "seed">
) {
  const { evaluation } = config
  const judge = yield* CorpusJudge
  const { prompts, engine } = yield* planMeasure(open.tokenizer, evaluation)
  const stage = `eval ${arm}`
  yield* report({ stage, step: 0, total: prompts.length, unit: "programs" })
  const texts = prompts.map((p) => p.prompt)
  const responses = yield* answer(open, texts, engine(open.lora?.rank ?? 0), config)
  const tasks = prompts.map((p): BenchTask => ({ id: p.id, group: p.family, prompt: p.prompt, heldOut: p.heldOut }))
  const byId = new Map<string, EvalPrompt>(prompts.map((p) => [p.id, p]))
  let done = 0
  const { outcomes, result } = yield* runTinyBench(
    tasks,
    new Map(responses.map((r, i) => [tasks[i]?.id ?? "", [functionBody(r.text)]])),
    (task, response) => {
      const prompt = byId.get(task.id)
      const judged =
        prompt === undefined
          ? Effect.succeed({ compiles: false, functional: false, secure: false, detail: "no such prompt" })
          : judge.judge(prompt, response)
      return judged.pipe(Effect.tap(() => report({ stage, step: ++done, total: prompts.length, unit: "programs" })))
    },
    {
      benchmark: "tiny",
      arm,
      seeds: [config.seed],
      sampling: { temperature: evaluation.temperature, topP: evaluation.topP }
    }
  )
  return { outcomes, result }
})

/** The prompts of the run's own data that are analysed, and the engine for them. `limit` bounds prompt and answer together. */
export const planAnalysis = (
  tokenizer: Tokenizer,
  generate: ReadonlyArray<Task>,
  { analysed, maxTokens }: EvaluationConfig,
  limit: number
) => {
  const fitting = generate.filter((task) => promptIds(tokenizer, task.prompt).length + maxTokens <= limit)
  const tasks = fitting.slice(0, analysed)
  const lengths = lengthsOf(tokenizer, tasks)
  return { tasks, engine: (rank: number) => generatorFor(lengths, { maxTokens, rank: Math.max(1, rank) }) }
}

/** Sec.Rate on prompts of the run's own data: analysed generations without a finding; both counts are kept. */
const analyse = Effect.fn("Evaluate.analyse")(function* (open: MeasuredModel, arm: Arm, config: RunConfig) {
  const analyzer = yield* Analyzer
  const { generate } = yield* readWorld()
  const { tasks, engine } = planAnalysis(open.tokenizer, generate, config.evaluation, longestSequence(open.model))
  if (tasks.length === 0) return {}
  const texts = tasks.map((t) => t.prompt)
  const responses = yield* answer(open, texts, engine(open.lora?.rank ?? 0), config)
  const snippets = responses.map(
    (r, i): Snippet => ({ id: String(i), language: tasks[i]?.language ?? "c", code: `${r.prompt}${r.text}` })
  )
  const analyses = yield* analyzer.analyze(snippets)
  yield* report({ stage: `analyse ${arm}`, step: tasks.length, total: tasks.length, unit: "programs" })
  const valid = analyses.filter((a) => a._tag !== "NotAnalysed")
  return {
    "data/valid": rateOf(analyses, (a) => a._tag !== "NotAnalysed"),
    "data/Sec.Rate": rateOf(valid, (a) => a._tag === "Clean")
  }
})

export const evaluateStage = Effect.fn("Stage.evaluate")(function* (config: RunConfig, arm: Arm) {
  const store = yield* RunStore
  const open = yield* openArm(config, arm)
  const { outcomes, result } = yield* measure(open, arm, config)
  const extra = config.data === null ? {} : yield* analyse(open, arm, config)
  const files = [`eval/${arm}.json`, `eval/${arm}.samples.jsonl`] as const
  yield* store.writeJson(files[0], EvalResult, { ...result, rates: { ...result.rates, ...extra } })
  yield* store.writeLines(files[1], SampleOutcome, Stream.fromIterable(outcomes))
  return files
}, Effect.scoped)
