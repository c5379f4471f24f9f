/** Opening models for a stage: the base, the base with supervised tuning merged in, and adapters of a run. */

import {
  loadAdapter,
  loadModel,
  loadModelTokenizer,
  type Model,
  type ModelConfig,
  mergeLora,
  packLora,
  readAdapter,
  type Tokenizer
} from "@srcode/model"
import { RunStore } from "@srcode/store"
import { invariantBroken } from "@srcode/trainer"
import { Effect } from "effect"
import type { RunConfig } from "./RunConfig.ts"

export interface OpenModel {
  readonly model: Model
  readonly tokenizer: Tokenizer
}

/** Tokens a sequence of a run may have where the model has the positions. */
export const maxSequence = 1024

/** Tokens a sequence may have with a model of this configuration. */
export const longestSequenceOf = (config: ModelConfig): number => Math.min(maxSequence, config.maxPositionEmbeddings)

/** Tokens a sequence may have with this model as it is opened. */
export const longestSequence = (model: Model): number => Math.min(maxSequence, model.decoder.rope.positions)

export const openBase = Effect.fn("Models.openBase")(function* (config: RunConfig) {
  const model = yield* loadModel(config.model, { maxTokens: maxSequence, dtype: config.dtype })
  const open: OpenModel = { model, tokenizer: yield* loadModelTokenizer(model) }
  return open
})

/** An adapter of the run directory, on the device. */
export const openAdapter = Effect.fn("Models.openAdapter")(function* (model: Model, relative: string) {
  const store = yield* RunStore
  return yield* loadAdapter(model, store.path(relative))
})

/** The base with `sft/adapter` merged into its weights: the start and the reference of reinforcement. */
export const openTuned = Effect.fn("Models.openTuned")(function* (config: RunConfig) {
  const open = yield* openBase(config)
  yield* mergeLora(open.model.decoder, yield* openAdapter(open.model, "sft/adapter"))
  return open
})

/**
 * Reads an adapter back from disk and compares it with what was trained, number by number: equal weights give equal
 * logits, and an adapter that serves another model than the one trained must not leave a run.
 */
export const compareAdapter = Effect.fn("Models.compareAdapter")(function* (
  model: Model,
  directory: string,
  trained: Float32Array,
  stage: string
) {
  const adapter = yield* readAdapter(directory, model.config)
  const loaded = packLora(model.config, adapter.rank, adapter.tensors)
  const at = loaded.length === trained.length ? loaded.findIndex((x, i) => x !== trained[i]) : 0
  if (at >= 0) {
    return yield* invariantBroken(
      stage,
      "a reloaded adapter gives identical logits",
      `${directory} differs from what was trained at element ${at}; the disk or another process changed it`
    )
  }
})
