/**
 * Reinforcement: PPO over the generation tasks with the reward model's score at the end of each response and, unless the
 * arm is `none`, the teacher's token rewards. One arm a call; outputs under `rl/<arm>/`.
 *
 * Resumable every `saveEvery` steps; prompts, sampling and batches follow from the step number.
 */
import { Rollout, type Task } from "@srcode/domain"
import {
  type Adapter,
  hasState,
  initialLora,
  linearModules,
  loadState,
  type Model,
  ModelError,
  makeGenerator,
  packLora,
  promptIds,
  saveState,
  type Tokenizer,
  unpackLora,
  uploadLora,
  writeAdapter,
  writeValueHead
} from "@srcode/model"
import { RunStore } from "@srcode/store"
import {
  badInput,
  batchIndices,
  completePpo,
  emptyMoments,
  normalise,
  type PassShape,
  type PpoSettings,
  type RewardPreset,
  RunningMoments,
  type ScoredResponse,
  Trainer,
  uniforms,
  updateMoments
} from "@srcode/trainer"
import { Effect, Schema, Stream } from "effect"
import { askTeacher, type TeacherFeedback } from "./Feedback.ts"
import { generatorFor, respond, type TextResponse } from "./Generated.ts"
import { compareAdapter, longestSequence, openTuned } from "./Models.ts"
import { report } from "./Progress.ts"
import { openRewardModel } from "./RewardModelStage.ts"
import type { RunConfig } from "./RunConfig.ts"
import { readWorld } from "./World.ts"

const Saved = Schema.Struct({ step: Schema.Int, moments: RunningMoments })

const silent = (length: number): TeacherFeedback => ({
  secureMask: new Array<boolean>(length).fill(false),
  severities: null,
  spans: [],
  dropped: 0
})

const toRollout = (
  step: number,
  index: number,
  task: Task,
  response: TextResponse,
  scored: ScoredResponse,
  feedback: TeacherFeedback
): Rollout => ({
  id: `${step}/${index}`,
  step,
  taskId: task.id,
  prompt: task.prompt,
  response: response.text,
  promptIds: response.promptIds,
  responseIds: response.generation.ids,
  truncated: response.generation.truncated,
  logProbs: scored.logProbs,
  refLogProbs: scored.refLogProbs,
  values: scored.values,
  secureMask: scored.secureMask,
  spans: feedback.spans,
  severities: scored.severities,
  rewardModel: scored.rewardModel,
  channels: scored.channels
})

/** Prompts short enough to be answered within the model's positions. */
const usablePrompts = (tasks: ReadonlyArray<Task>, tokenizer: Tokenizer, room: number) =>
  tasks.filter((task) => {
    const length = promptIds(tokenizer, task.prompt).length
    return length > 0 && length <= room
  })

export interface ReinforceOptions<E, R> {
  readonly model: Model
  readonly tokenizer: Tokenizer
  readonly tasks: ReadonlyArray<Task>
  readonly settings: PpoSettings
  readonly seed: number
  /** An adapter that policy and reference start from; the policy's takes its rank and scale. Default: the model alone. */
  readonly initial?: Adapter
  /** Where everything goes, relative to the run directory; "" is the directory itself. */
  readonly directory: string
  /** Name of the stage in metrics and progress. */
  readonly stage: string
  /** The shape of a training pass where memory was planned before; default: the first that fits. */
  readonly pass?: PassShape
  /** The sequence rewards of a batch, one a response; they are normalised by their running mean and deviation here. */
  readonly score: (
    responses: ReadonlyArray<TextResponse>,
    tasks: ReadonlyArray<Task>
  ) => Effect.Effect<ReadonlyArray<number>, E, R>
}

/** What PPO on these tasks takes: the usable ones, complete settings, the engine's. `limit` bounds prompt and response together. */
export const planReinforce = Effect.fnUntraced(function* (
  options: Pick<ReinforceOptions<never, never>, "tokenizer" | "settings" | "initial"> & {
    readonly tasks: ReadonlyArray<Task>
    readonly limit: number
  }
) {
  const { tokenizer, settings, initial, limit } = options
  const tasks = usablePrompts(options.tasks, tokenizer, limit - settings.maxTokens)
  if (tasks.length === 0)
    return yield* badInput(
      `no prompt with ${settings.maxTokens} further tokens fits ${limit} tokens; take shorter prompts or a smaller maxTokens`
    )
  const lengths = tasks.map((task) => promptIds(tokenizer, task.prompt).length)
  // The scale of a rank-stabilised adapter is put into alpha, so that alpha / rank gives it.
  const shape = initial === undefined ? {} : { rank: initial.rank, alpha: initial.scale * initial.rank }
  const ppo = completePpo({ ...settings, ...shape }, Math.max(...lengths))
  return { tasks, ppo, generator: generatorFor(lengths, ppo) }
})

/** PPO from prompts to `adapter/`, `value_head.safetensors` and `rollouts.jsonl`. `settings.preset` none asks no teacher. */
export const reinforce = Effect.fn("reinforce")(function* <E, R>(options: ReinforceOptions<E, R>) {
  const store = yield* RunStore
  const { model, tokenizer, stage, seed } = options
  const at = (name: string) => (options.directory === "" ? name : `${options.directory}/${name}`)
  const { initial } = options
  const { tasks, ppo, generator: engine } = yield* planReinforce({ ...options, limit: longestSequence(model) })
  const start = initial
    ? packLora(model.config, initial.rank, initial.tensors)
    : initialLora(model.config, ppo.rank, uniforms(seed, 4))
  const reference = initial ? yield* uploadLora(model.config, initial) : null
  // The engine first: what the trainer takes is chosen by what is left.
  const generator = yield* makeGenerator(model.decoder, engine)
  const trainer = yield* (yield* Trainer).ppo(model.decoder, ppo, start, reference, options.pass)
  let step = 0
  let moments: RunningMoments = emptyMoments
  const stateDirectory = store.path(at("state"))
  if (yield* hasState(stateDirectory)) {
    const state = yield* loadState(stateDirectory)
    const image = (name: string): Float32Array<ArrayBuffer> =>
      Float32Array.from(state.tensors[name] ?? new Float32Array(0))
    const saved = yield* Schema.decodeUnknownEffect(Saved)(state.json).pipe(
      Effect.mapError(() =>
        ModelError.malformed({
          operation: "resume",
          file: stateDirectory,
          message: `${stateDirectory} is not a training state; remove it to start anew`
        })
      )
    )
    const [params, m, v] = [image("params"), image("m"), image("v")]
    const length = trainer.adapterLength + model.config.hiddenSize + 1
    if ([params, m, v].some((tensor) => tensor.length !== length)) {
      return yield* ModelError.malformed({
        operation: "resume",
        file: stateDirectory,
        message: `${stateDirectory} belongs to another model or rank; remove it to start anew`
      })
    }
    yield* trainer.load({ params, m, v })
    step = saved.step
    moments = saved.moments
  }
  const metrics = yield* store.metrics(stage, step + 1)
  const file = at("rollouts.jsonl")
  if (step === 0) yield* store.remove(file)
  else {
    const kept = yield* Stream.runCollect(
      store.readLines(file, Rollout, { allowEmpty: true }).pipe(Stream.filter((r) => r.step <= step))
    )
    yield* store.writeLines(file, Rollout, Stream.fromIterable(kept))
  }
  const rollouts = yield* store.appender(file, Rollout)
  yield* report({ stage, step, total: ppo.steps, unit: "steps" })
  while (step < ppo.steps) {
    const batch = batchIndices(tasks.length, ppo.batchSize, step, seed, true).flatMap((i) =>
      tasks[i] ? [tasks[i]] : []
    )
    const responses = yield* respond({
      generator,
      tokenizer,
      lora: trainer.lora,
      prompts: batch.map((t) => t.prompt),
      firstStream: step * ppo.batchSize,
      sampling: { temperature: ppo.temperature, topP: ppo.topP, maxTokens: ppo.maxTokens, seed: ppo.seed }
    })
    const scores = yield* options.score(responses, batch)
    moments = updateMoments(moments, scores)
    const feedback = yield* Effect.forEach(
      responses,
      (r, i) => {
        const task = batch[i]
        return ppo.preset === "none" || task === undefined
          ? Effect.succeed(silent(r.generation.ids.length))
          : askTeacher({
              task,
              response: r.text,
              responseIds: r.generation.ids,
              truncated: r.generation.truncated,
              tokenizer
            })
      },
      { concurrency: 4 }
    )
    const sampled = responses.map((r, i) => ({
      promptIds: r.promptIds,
      generation: r.generation,
      secureMask: feedback[i]?.secureMask ?? [],
      severities: feedback[i]?.severities ?? null,
      rewardModel: normalise(moments, scores[i] ?? 0)
    }))
    const result = yield* trainer.update(sampled, step + 1)
    step++
    for (const [i, scored] of result.responses.entries()) {
      const [task, response, fb] = [batch[i], responses[i], feedback[i]]
      if (task && response && fb) yield* rollouts.append(toRollout(step, i, task, response, scored, fb))
    }
    const dropped = feedback.reduce((sum, f) => sum + f.dropped, 0)
    const quoted = feedback.reduce((sum, f) => sum + f.spans.length, 0)
    yield* metrics.append(step, { ...result.metrics, "teacher/dropped_spans": quoted === 0 ? 0 : dropped / quoted })
    if (step % ppo.saveEvery === 0 && step < ppo.steps) {
      yield* saveState(stateDirectory, { tensors: yield* trainer.image, json: { step, moments } })
    }
    const shown =
      ppo.preset === "none" ? "" : `, secure ${Math.round(100 * (result.metrics["reward/secure_fraction"] ?? 0))} %`
    yield* report({
      stage,
      step,
      total: ppo.steps,
      unit: "steps",
      note: `score ${(result.metrics["objective/scores"] ?? 0).toFixed(2)}, kl ${(result.metrics["policy/kl_avg"] ?? 0).toFixed(3)}${shown}`
    })
  }
  const { params } = yield* trainer.image
  yield* writeAdapter(store.path(at("adapter")), model.config, {
    rank: ppo.rank,
    alpha: ppo.alpha,
    targetModules: initial?.targetModules ?? linearModules,
    tensors: unpackLora(model.config, ppo.rank, params.slice(0, trainer.adapterLength))
  })
  const head = params.slice(trainer.adapterLength)
  yield* writeValueHead(store.path(options.directory), { weight: head.slice(0, -1), bias: head.at(-1) ?? 0 })
  yield* compareAdapter(model, store.path(at("adapter")), params.subarray(0, trainer.adapterLength), stage)
  yield* store.remove(at("state"))
  return [at("adapter"), at("value_head.safetensors"), file]
}, Effect.scoped)

/** One arm of a run: the reward model scores sequences, the arm's preset decides what the teacher's spans earn. */
export const rlStage = Effect.fn("Stage.rl")(function* (config: RunConfig, arm: RewardPreset) {
  const { model, tokenizer } = yield* openTuned(config)
  const { generate } = yield* readWorld()
  const { rewardModel } = yield* openRewardModel(config, model.decoder)
  return yield* reinforce({
    model,
    tokenizer,
    tasks: generate,
    settings: { ...config.rl, preset: arm },
    seed: config.seed,
    directory: `rl/${arm}`,
    stage: `rl-${arm}`,
    score: (responses) => rewardModel.score(responses.map((r) => [...r.promptIds, ...r.generation.ids]))
  })
}, Effect.scoped)
