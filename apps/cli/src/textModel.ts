/**
 * A model that answers in text: what `serve`, `chat` and `generate` open. Weights, adapters and the engine's cache are
 * planned together before a weight is read.
 */
import * as nodePath from "node:path"
import { UserError } from "@srcode/domain"
import {
  type Adapter,
  allocLora,
  type ChatTemplate,
  type EngineOptions,
  type Lora,
  loadChatTemplate,
  loadConfig,
  loadModelTokenizer,
  locateAdapter,
  locateModel,
  type Model,
  type ModelConfig,
  makeEngine,
  readAdapter,
  uploadLora
} from "@srcode/model"
import { makeTextModel, type TextModel } from "@srcode/serve"
import { Effect } from "effect"
import { type ModelChoice, openModel } from "./model.ts"

export interface OpenedTextModel {
  readonly text: TextModel["Service"]
  readonly model: Model
  /** The base model's name. */
  readonly id: string
  readonly hasTemplate: boolean
}

/** Prompt tokens computed between two bursts: what other sequences wait at most. */
const prefillTokens = 512

/** Adapters by name; one that has the base's name would hide it. */
const readAdapters = Effect.fnUntraced(function* (
  given: ReadonlyArray<readonly [name: string, place: string]>,
  id: string,
  config: ModelConfig
) {
  const adapters = new Map<string, Adapter>()
  for (const [name, place] of given) {
    if (name === id || adapters.has(name))
      return yield* new UserError({ message: `--adapter ${name}=${place}: the name ${name} is taken; choose another` })
    adapters.set(name, yield* readAdapter(yield* locateAdapter(place), config))
  }
  return adapters
})

/** The template of a folder, or null where it has none. */
const findTemplate = (directory: string) =>
  loadChatTemplate(directory).pipe(
    Effect.map((template): ChatTemplate | null => template),
    Effect.catchReason("ModelError", "Missing", () => Effect.succeed(null))
  )

/**
 * Opens the model of the flags on the device, in the caller's Scope. `maxTokens` bounds a sequence, prompt and answer
 * together; default: the model's positions, 4096 at most. `sequences` may depend on what fits.
 */
export const openTextModel = Effect.fn("openTextModel")(function* (
  choice: ModelChoice,
  options: {
    readonly adapters: ReadonlyArray<readonly [name: string, place: string]>
    readonly maxSequences: number
    readonly maxTokens: number | undefined
  }
) {
  const directory = yield* locateModel(choice.model)
  // a folder's own name, or the id as it was given
  const id = directory === choice.model ? nodePath.basename(nodePath.resolve(directory)) : choice.model
  const adapters = yield* readAdapters(options.adapters, id, yield* loadConfig(directory))
  const template = yield* findTemplate(directory)
  const engineOptions = (positions: number): EngineOptions => ({
    maxSequences: options.maxSequences,
    maxTokens: positions,
    prefillTokens: Math.min(prefillTokens, positions),
    rank: Math.max(1, ...[...adapters.values()].map((adapter) => adapter.rank))
  })
  const { model } = yield* openModel(choice, {
    ...(options.maxTokens === undefined ? {} : { maxTokens: options.maxTokens }),
    also: (decoder, section) =>
      Effect.gen(function* () {
        if (adapters.size > 0)
          yield* section(
            "adapters",
            Effect.forEach(adapters.values(), (adapter) => allocLora(decoder.config, adapter), { discard: true })
          )
        yield* section("cache", makeEngine(decoder, engineOptions(decoder.rope.positions)))
      })
  })
  const tokenizer = yield* loadModelTokenizer(model)
  const loras = new Map<string, Lora>()
  for (const [name, adapter] of adapters) loras.set(name, yield* uploadLora(model.config, adapter))
  const engine = yield* makeEngine(model.decoder, engineOptions(model.decoder.rope.positions))
  const text = makeTextModel({
    engine,
    tokenizer,
    template,
    vocabSize: model.config.vocabSize,
    endIds: model.config.eosTokenIds,
    id,
    adapters: loras
  })
  const opened: OpenedTextModel = { text, model, id, hasTemplate: template !== null }
  return opened
})
