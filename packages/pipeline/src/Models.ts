/** Opening models for a stage: the base, the base with supervised tuning merged in, and adapters of a run. */

import { Gpu } from "@srcode/gpu"
import {
  allocLora,
  type Lora,
  loadModel,
  loadModelTokenizer,
  type Model,
  mergeLora,
  packLora,
  readAdapter,
  type Tokenizer
} from "@srcode/model"
import { RunStore } from "@srcode/store"
import { Effect } from "effect"
import type { RunConfig } from "./RunConfig.ts"

export interface OpenModel {
  readonly model: Model
  readonly tokenizer: Tokenizer
}

/** Tokens a sequence of a run may have where the model has the positions. */
export const maxSequence = 1024

/** Tokens a sequence may have with this model. */
export const longestSequence = (model: Model): number => Math.min(maxSequence, model.decoder.rope.positions)

export const openBase = Effect.fn("Models.openBase")(function* (config: RunConfig) {
  const model = yield* loadModel(config.model, { maxTokens: maxSequence })
  const open: OpenModel = { model, tokenizer: yield* loadModelTokenizer(model) }
  return open
})

/** An adapter of the run directory, on the device. */
export const openAdapter = Effect.fn("Models.openAdapter")(function* (model: Model, relative: string) {
  const store = yield* RunStore
  const gpu = yield* Gpu
  const adapter = yield* readAdapter(store.path(relative), model.config)
  const lora = yield* allocLora(model.config, { rank: adapter.rank, alpha: adapter.alpha })
  yield* gpu.write(lora.params.flat, packLora(model.config, adapter.rank, adapter.tensors))
  const open: Lora = { ...lora, scale: adapter.scale }
  return open
})

/** The base with `sft/adapter` merged into its weights: the start and the reference of reinforcement. */
export const openTuned = Effect.fn("Models.openTuned")(function* (config: RunConfig) {
  const open = yield* openBase(config)
  yield* mergeLora(open.model.decoder, yield* openAdapter(open.model, "sft/adapter"))
  return open
})
