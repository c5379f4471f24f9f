/** Supervised fine-tuning: curriculum tasks in, `sft/adapter/` (PEFT) out. */
import type { Task } from "@srcode/domain"
import { Gpu } from "@srcode/gpu"
import {
  allocLora,
  completionIds,
  linearModules,
  promptIds,
  type Tokenizer,
  unpackLora,
  writeAdapter
} from "@srcode/model"
import { type MetricsWriter, RunStore } from "@srcode/store"
import { badInput, completionRow, sftMetrics, type TokenRow, Trainer } from "@srcode/trainer"
import { Effect, Option, Ref } from "effect"
import { compareAdapter, longestSequence, openBase } from "./Models.ts"
import { report } from "./Progress.ts"
import type { RunConfig } from "./RunConfig.ts"
import { readWorld } from "./World.ts"

/** Rows of tasks that fit the model, in order, and how many did not fit. */
export const taskRows = (tasks: ReadonlyArray<Task>, tokenizer: Tokenizer, longest: number) => {
  const rows: Array<TokenRow> = []
  let tooLong = 0
  for (const task of tasks) {
    const [prompt, completion] = [promptIds(tokenizer, task.prompt), completionIds(tokenizer, task.completion)]
    const row = completionRow(prompt, completion, tokenizer.eosId)
    if (row.ids.length > longest) tooLong++
    else rows.push(row)
  }
  return { rows, tooLong }
}

export const sftStage = Effect.fn("Stage.sft")(function* (config: RunConfig) {
  const store = yield* RunStore
  const gpu = yield* Gpu
  const { model, tokenizer } = yield* openBase(config)
  const longest = longestSequence(model)
  const { supervised } = yield* readWorld()
  const { rows, tooLong } = taskRows(supervised, tokenizer, longest)
  if (tooLong > 0)
    yield* Effect.logInfo(
      `sft: ${tooLong} of ${supervised.length} tasks are longer than ${longest} tokens and are left out`
    )
  if (rows.length === 0)
    return yield* badInput(
      `no supervised task fits ${longest} tokens; take shorter functions or a tokenizer with a larger vocabulary`
    )
  const lora = yield* allocLora(model.config, config.sft)
  // Opened at the step that runs next: what a killed attempt logged before it stays.
  const metrics = yield* Ref.make(Option.none<MetricsWriter>())
  const trainer = yield* Trainer
  yield* trainer.sft({
    decoder: model.decoder,
    lora,
    fresh: true,
    rows,
    config: config.sft,
    stateDirectory: store.path("sft/state"),
    onStart: Effect.fnUntraced(function* (first) {
      yield* Ref.set(metrics, Option.some(yield* store.metrics("sft", first + 1)))
      yield* report({ stage: "sft", step: first, total: config.sft.steps, unit: "steps" })
    }),
    onStep: Effect.fnUntraced(function* (step) {
      const writer = yield* Ref.get(metrics)
      if (Option.isSome(writer)) yield* writer.value.append(step.step, sftMetrics(step))
      yield* report({
        stage: "sft",
        step: step.step,
        total: config.sft.steps,
        unit: "steps",
        note: `loss ${step.loss.toFixed(3)}`
      })
    })
  })
  const flat = yield* gpu.read(lora.params.flat)
  yield* writeAdapter(store.path("sft/adapter"), model.config, {
    rank: config.sft.rank,
    alpha: config.sft.alpha,
    targetModules: linearModules,
    tensors: unpackLora(model.config, config.sft.rank, flat)
  })
  yield* compareAdapter(model, store.path("sft/adapter"), flat, "sft")
  yield* store.remove("sft/state")
  return ["sft/adapter"]
}, Effect.scoped)
