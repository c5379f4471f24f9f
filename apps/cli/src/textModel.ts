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
  loadTokenizer,
  locateAdapter,
  locateModel,
  type ModelConfig,
  makeEngine,
  readAdapter,
  type Tokenizer,
  uploadLora
} from "@srcode/model"
import { makeTextModel } from "@srcode/serve"
import { Effect } from "effect"
import { type ModelChoice, openModel } from "./model.ts"

/** What is known of a model before its weights are read: enough to tell whether prompts fit. */
export interface TextModelFiles {
  readonly directory: string
  /** The base model's name: its folder's, or the id as it was given. */
  readonly id: string
  readonly config: ModelConfig
  readonly tokenizer: Tokenizer
  /** null: the model has none. */
  readonly template: ChatTemplate | null
  readonly adapters: ReadonlyMap<string, Adapter>
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

/** Reads everything but the weights. Adapters are named; those names are what `sample` takes as the model. */
export const readTextModel = Effect.fn("readTextModel")(function* (
  model: string,
  adapters: ReadonlyArray<readonly [name: string, place: string]>
) {
  const directory = yield* locateModel(model)
  const id = directory === model ? nodePath.basename(nodePath.resolve(directory)) : model
  const config = yield* loadConfig(directory)
  const files: TextModelFiles = {
    directory,
    id,
    config,
    tokenizer: yield* loadTokenizer(directory),
    template: yield* findTemplate(directory),
    adapters: yield* readAdapters(adapters, id, config)
  }
  return files
})

/** Tokens that a sequence of the model may have, within what is asked for (default 4096). */
export const longestSequence = (files: TextModelFiles, asked = 4096): number =>
  Math.min(asked, files.config.maxPositionEmbeddings)

/**
 * Opens the model on the device, in the caller's Scope. `maxTokens` bounds a sequence, prompt and answer together;
 * default: the model's positions, 4096 at most.
 */
export const openTextModel = Effect.fn("openTextModel")(function* (
  choice: ModelChoice,
  files: TextModelFiles,
  options: { readonly maxSequences: number; readonly maxTokens?: number }
) {
  const { adapters } = files
  const maxTokens = longestSequence(files, options.maxTokens)
  const engineOptions: EngineOptions = {
    maxSequences: options.maxSequences,
    maxTokens,
    prefillTokens: Math.min(prefillTokens, maxTokens),
    rank: Math.max(1, ...[...adapters.values()].map((adapter) => adapter.rank))
  }
  const { model } = yield* openModel(choice, {
    maxTokens,
    also: (decoder, section) =>
      Effect.gen(function* () {
        if (adapters.size > 0)
          yield* section(
            "adapters",
            Effect.forEach(adapters.values(), (adapter) => allocLora(decoder.config, adapter), { discard: true })
          )
        yield* section("cache", makeEngine(decoder, engineOptions))
      })
  })
  const loras = new Map<string, Lora>()
  for (const [name, adapter] of adapters) loras.set(name, yield* uploadLora(model.config, adapter))
  return makeTextModel({
    engine: yield* makeEngine(model.decoder, engineOptions),
    tokenizer: files.tokenizer,
    template: files.template,
    vocabSize: model.config.vocabSize,
    endIds: model.config.eosTokenIds,
    id: files.id,
    adapters: loras
  })
})
