/**
 * The whole pipeline in one run directory: data set → SFT → reward model → PPO arms → evaluation → report.
 *
 * Every stage is keyed by the hash of its settings and of the files it reads: a second call skips what is done, resumes
 * what was cut off, and redoes what has changed.
 */
import { EvalResult, Rollout, type RunManifest, SampleOutcome } from "@srcode/domain"
import { type ReportRollout, renderReport, resultsTable } from "@srcode/evals"
import { Gpu, requireMemory } from "@srcode/gpu"
import {
  combineAdapters,
  loadConfig,
  loadState,
  loadTokenizer,
  openCheckpoint,
  readAdapter,
  writeAdapter
} from "@srcode/model"
import { hashFile, hashJson, RunStore, type StageResult } from "@srcode/store"
import { Clock, DateTime, Effect, Schema, Stream } from "effect"
import { evaluateStage } from "./EvaluateStage.ts"
import { hashModel } from "./Fingerprint.ts"
import { rewardModelStage } from "./RewardModelStage.ts"
import { rlStage } from "./RlStage.ts"
import { RunConfig } from "./RunConfig.ts"
import { planRun, type StagePlan } from "./RunPlan.ts"
import { sftStage } from "./SftStage.ts"
import { buildWorld } from "./World.ts"

export interface RunOptions {
  readonly name: string
  readonly config: RunConfig
  readonly versions: Readonly<Record<string, string>>
  readonly gitCommit: string | null
  /** Lines for the report's head, such as why a smaller preset was chosen. */
  readonly notes: ReadonlyArray<string>
  /** Told of the stage that takes most memory, once the data is known and before a weight is read. */
  readonly onPlan?: (largest: StagePlan) => Effect.Effect<void>
}

export interface RunSummary {
  readonly results: ReadonlyArray<EvalResult>
  /** Plain-text table of the results. */
  readonly table: string
  readonly report: string
  /** PEFT folder that holds supervised tuning and reinforcement together, for the base model. */
  readonly adapter: string
  /** Share of held-out pairs that the reward model ranks rightly; null when there was no pair to hold out. */
  readonly rewardModelAccuracy: number | null
}

const Accuracy = Schema.Struct({ accuracy: Schema.Finite, heldOutPairs: Schema.Int })

/** Prefers the arm with token rewards; else the last one asked for; else supervised tuning alone. */
const finalArm = (config: RunConfig) => config.arms.find((a) => a !== "none") ?? config.arms.at(-1) ?? null

/** `adapter/`: SFT and the final arm as one adapter for the unmodified base model. */
const finalAdapter = Effect.fn("Run.finalAdapter")(function* (config: RunConfig) {
  const store = yield* RunStore
  const model = yield* loadConfig(config.model)
  const sft = yield* readAdapter(store.path("sft/adapter"), model)
  const arm = finalArm(config)
  const adapter = arm === null ? sft : combineAdapters(sft, yield* readAdapter(store.path(`rl/${arm}/adapter`), model))
  yield* writeAdapter(store.path("adapter"), model, {
    rank: adapter.rank,
    alpha: adapter.alpha,
    targetModules: adapter.targetModules,
    tensors: adapter.tensors,
    baseModel: config.model
  })
  return ["adapter"]
})

const writeReport = Effect.fn("Run.report")(function* (options: RunOptions, arms: ReadonlyArray<string>) {
  const store = yield* RunStore
  const { config } = options
  const tokenizer = yield* loadTokenizer(config.model)
  const results = yield* Effect.forEach(arms, (arm) => store.readJson(`eval/${arm}.json`, EvalResult))
  const samples: Array<{ arm: string; outcome: SampleOutcome }> = []
  for (const arm of arms) {
    const outcomes = yield* Stream.runCollect(
      store.readLines(`eval/${arm}.samples.jsonl`, SampleOutcome, { allowEmpty: true }).pipe(Stream.take(6))
    )
    for (const outcome of outcomes) samples.push({ arm, outcome })
  }
  const arm = finalArm(config)
  const last =
    arm === null
      ? []
      : yield* Stream.runCollect(
          store.readLines(`rl/${arm}/rollouts.jsonl`, Rollout, { allowEmpty: true }).pipe(Stream.takeRight(8))
        )
  const decoder = new TextDecoder()
  const rollouts = last.map(
    (rollout): ReportRollout => ({
      rollout,
      pieces: rollout.responseIds.map((id) => decoder.decode(tokenizer.tokenBytes(id)))
    })
  )
  const metrics = yield* Stream.runCollect(store.readMetrics)
  const accuracy = yield* loadState(store.path("rl/reward_model")).pipe(
    Effect.flatMap((state) => Schema.decodeUnknownEffect(Accuracy)(state.json)),
    Effect.map((a) => (a.heldOutPairs > 0 ? a.accuracy : null)),
    Effect.catch(() => Effect.succeed(null))
  )
  const notes = [
    ...options.notes,
    "FS@1 is the share of prompts whose one sample passes both its functional and its security test, by compiling and running it.",
    ...(accuracy === null
      ? []
      : [
          `The sequence reward is a small pairwise reward model; it ranks ${Math.round(accuracy * 100)} % of held-out pairs rightly.`
        ])
  ]
  const manifest = yield* store.readManifest
  const html = renderReport({
    title: `srcode run ${options.name}`,
    manifest,
    results,
    metrics,
    rollouts,
    samples,
    notes
  })
  yield* store.write("report.html", html)
  const summary: RunSummary = {
    results,
    table: resultsTable(results),
    report: store.path("report.html"),
    adapter: store.path("adapter"),
    rewardModelAccuracy: accuracy
  }
  return summary
})

export const run = Effect.fn("run")(function* (options: RunOptions) {
  const store = yield* RunStore
  const gpu = yield* Gpu
  const { config } = options
  // The folder is looked at as a whole before anything is made of it: a stage may be hours away.
  yield* Effect.scoped(openCheckpoint(config.model, { dtype: config.dtype }))
  const inputs: Record<string, string> = { model: `${yield* hashModel(config.model)} ${config.dtype}` }
  if (config.data !== null) inputs.data = yield* hashFile(config.data)
  const earlier = yield* store.readManifest
  const manifest: RunManifest = {
    name: options.name,
    config: yield* Schema.encodeEffect(Schema.toCodecJson(RunConfig))(config).pipe(Effect.orDie),
    seed: config.seed,
    versions: options.versions,
    device: { name: gpu.info.name, backend: gpu.info.backend, software: gpu.info.software },
    gitCommit: options.gitCommit,
    inputs,
    startedAt: earlier?.startedAt ?? DateTime.formatIso(DateTime.makeUnsafe(yield* Clock.currentTimeMillis))
  }
  yield* store.writeManifest(manifest)
  const common = { inputs, seed: config.seed, device: manifest.device }
  const stage = <E, R>(
    name: string,
    settings: unknown,
    upstream: ReadonlyArray<StageResult>,
    partial: ReadonlyArray<string>,
    work: Effect.Effect<ReadonlyArray<string>, E, R>
  ) =>
    store.stage({
      name,
      inputsHash: hashJson({ ...common, settings, upstream: upstream.map((u) => u.outputs) }),
      partial,
      run: () => work
    })

  const data = yield* stage(
    "dataset",
    {
      limit: config.limit,
      order: config.order,
      sftRows: config.sftRows,
      prompts: config.rl.steps * config.rl.batchSize
    },
    [],
    [],
    buildWorld(config)
  )
  const largest = yield* planRun(config)
  if (options.onPlan !== undefined) yield* options.onPlan(largest)
  yield* requireMemory(`stage ${largest.stage} of this run`, largest.plan)
  yield* stage("eval-base", config.evaluation, config.data === null ? [] : [data], [], evaluateStage(config, "base"))
  const sft = yield* stage("sft", config.sft, [data], ["sft/state"], sftStage(config))
  yield* stage("eval-sft", config.evaluation, [sft], [], evaluateStage(config, "sft"))
  const arms = ["base", "sft"]
  let last: StageResult = sft
  if (config.arms.length > 0) {
    const rewardModel = yield* stage("reward-model", config.rewardModel, [data, sft], [], rewardModelStage(config))
    for (const arm of config.arms) {
      last = yield* stage(
        `rl-${arm}`,
        config.rl,
        [data, sft, rewardModel],
        [`rl/${arm}/state`, `rl/${arm}/rollouts.jsonl`],
        rlStage(config, arm)
      )
      yield* stage(`eval-rl-${arm}`, config.evaluation, [sft, last], [], evaluateStage(config, `rl-${arm}`))
      arms.push(`rl-${arm}`)
    }
  }
  yield* stage("adapter", { arms: config.arms }, [sft, last], [], finalAdapter(config))
  return yield* writeReport(options, arms)
})
