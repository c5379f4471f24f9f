/**
 * What a run will allocate, told once its data is known and before a weight is read: every stage's own allocations, with
 * the options that the stage itself takes, against a device that only counts.
 *
 * Trainers choose their passes by the memory that is left; they do so here as they will there.
 */
import { Gpu, type GpuError, type MemoryPlan, planMemory, type Section } from "@srcode/gpu"
import {
  allocDecoder,
  allocLora,
  type Decoder,
  loadTokenizer,
  type ModelError,
  makeGenerator,
  type OpenCheckpoint,
  openCheckpoint
} from "@srcode/model"
import {
  choosePass,
  makePpoTrainer,
  makeRewardModel,
  makeSftTrainer,
  type PassShape,
  ppoPassShapes,
  sftPassShapes
} from "@srcode/trainer"
import { Effect, type Scope } from "effect"
import { planAnalysis, planMeasure } from "./EvaluateStage.ts"
import { longestSequenceOf, maxSequence } from "./Models.ts"
import { rewardModelConfig } from "./RewardModelStage.ts"
import { planReinforce } from "./RlStage.ts"
import type { RunConfig } from "./RunConfig.ts"
import { taskRows } from "./SftStage.ts"
import { readWorld } from "./World.ts"

export interface StagePlan {
  readonly stage: string
  readonly plan: MemoryPlan
  readonly checkpoint: OpenCheckpoint
}

type Allocate = (decoder: Decoder, section: Section) => Effect.Effect<unknown, GpuError | ModelError, Gpu | Scope.Scope>

/** The plan of the stage that takes most. Reads the data set of the run directory. */
export const planRun = Effect.fn("planRun")(function* (config: RunConfig) {
  const { live, budget } = yield* (yield* Gpu).memory
  const checkpoint = yield* openCheckpoint(config.model, { maxTokens: maxSequence, dtype: config.dtype })
  const tokenizer = yield* loadTokenizer(config.model)
  const { generate, supervised } = yield* readWorld()
  const limit = longestSequenceOf(checkpoint.config)
  const plans: Array<StagePlan> = []

  /** The counting device has no budget of its own: inside a stage it answers with what the real one will have left. */
  const bounded = <A, E>(work: Effect.Effect<A, E, Gpu | Scope.Scope>): Effect.Effect<A, E, Gpu | Scope.Scope> =>
    Effect.updateService(work, Gpu, (counter) => ({
      ...counter,
      memory: Effect.map(counter.memory, (counted) => ({ ...counted, live: live + counted.live, budget }))
    }))

  const add = Effect.fnUntraced(function* (stage: string, also: Allocate) {
    const plan = yield* planMemory((section) =>
      bounded(
        Effect.gen(function* () {
          const { decoder } = yield* section("weights", allocDecoder(checkpoint))
          yield* also(decoder, section)
        })
      )
    )
    plans.push({ stage, plan, checkpoint })
  })
  const tuned = (section: Section) => section("tuned adapter", allocLora(checkpoint.config, config.sft))

  const { engine } = yield* planMeasure(tokenizer, config.evaluation)
  const analysis = config.data === null ? null : planAnalysis(tokenizer, generate, config.evaluation, limit)
  const evaluate = (decoder: Decoder, section: Section, rank: number) =>
    Effect.gen(function* () {
      yield* section("engine", makeGenerator(decoder, engine(rank)))
      if (analysis !== null && analysis.tasks.length > 0)
        yield* section("engine of the analysis", makeGenerator(decoder, analysis.engine(rank)))
    })
  yield* add("eval-sft", (decoder, section) => Effect.andThen(tuned(section), evaluate(decoder, section, 0)))

  const shapes = sftPassShapes(taskRows(supervised, tokenizer, limit).rows, config.sft)
  yield* add("sft", (decoder, section) =>
    Effect.gen(function* () {
      const lora = yield* section("adapter", allocLora(checkpoint.config, config.sft))
      const pass = yield* choosePass("sft", shapes, (shape) => makeSftTrainer(decoder, lora, config.sft, shape))
      yield* makeSftTrainer(decoder, lora, config.sft, pass, section)
    })
  )

  if (config.arms.length > 0) {
    const rewardModel = (decoder: Decoder, section: Section) =>
      section("reward model", makeRewardModel(decoder, rewardModelConfig(config)))
    const { ppo, generator } = yield* planReinforce({ tokenizer, tasks: generate, settings: config.rl, limit })
    yield* add("rl", (decoder, section) =>
      Effect.gen(function* () {
        yield* tuned(section)
        yield* rewardModel(decoder, section)
        yield* section("engine", makeGenerator(decoder, generator))
        const make = (pass: PassShape, section?: Section) =>
          makePpoTrainer(decoder, ppo, new Float32Array(0), null, { pass, ...(section && { section }) })
        yield* make(yield* choosePass("rl", ppoPassShapes(ppo), (pass) => make(pass)), section)
      })
    )
    yield* add("eval-rl", (decoder, section) =>
      Effect.gen(function* () {
        yield* tuned(section)
        yield* section("adapter", allocLora(checkpoint.config, ppo))
        yield* evaluate(decoder, section, ppo.rank)
      })
    )
  }
  return plans.reduce((most, next) => (next.plan.total > most.plan.total ? next : most))
}, Effect.scoped)
