/**
 * Text in, text out, as a service: what the HTTP side knows of a model. The live layer stands on the engine; one base
 * model and any number of adapters answer under their names.
 *
 * A sequence is asked for in token ids, since their number decides whether it fits before anything runs; it answers in
 * pieces of text that are whole characters and end before a stop string. Ending the stream early cancels the sequence
 * and frees its cache.
 */
import {
  type ChatMessage,
  type ChatTemplate,
  type Engine,
  type EngineStats,
  type Lora,
  ModelError,
  type RenderOptions,
  type SamplingParams,
  type Tokenizer
} from "@srcode/model"
import { Context, Effect, Layer, Schema, Stream } from "effect"
import { type TextChunk, textChunks } from "./internal/text-chunks.ts"

export type { TextChunk, TextToken } from "./internal/text-chunks.ts"

export interface ServedModel {
  /** The name that requests ask for. */
  readonly id: string
  /** The base model's id for an adapter, null for the base itself. */
  readonly parent: string | null
}

export interface TextRequest {
  /** The id of a served model. */
  readonly model: string
  readonly ids: ReadonlyArray<number>
  /** Numbers the sequences that share a seed. */
  readonly stream: number
  readonly sampling: SamplingParams
  readonly stop: ReadonlyArray<string>
  readonly stopIds: ReadonlyArray<number>
}

/** The engine or the device failed while a sequence ran. */
export class TextModelError extends Schema.TaggedError<TextModelError>()("TextModelError", {
  message: Schema.String
}) {}

export class TextModel extends Context.Service<
  TextModel,
  {
    /** The base model first. */
    readonly models: ReadonlyArray<ServedModel>
    readonly vocabSize: number
    /** Sequences that run at a time, and tokens of one with its prompt. */
    readonly limits: { readonly maxSequences: number; readonly maxTokens: number }
    /** More bytes of text than this never fit a sequence: told without tokenising, which takes its time. */
    readonly maxTextBytes: number
    /** Token ids of plain text, with what the tokenizer puts before a text. */
    readonly encode: (text: string) => ReadonlyArray<number>
    readonly decode: (ids: ReadonlyArray<number>) => string
    /** Token ids of a conversation that ends with the opening of the assistant's turn. */
    readonly encodeChat: (
      messages: ReadonlyArray<ChatMessage>,
      options?: RenderOptions
    ) => Effect.Effect<ReadonlyArray<number>, ModelError>
    readonly sample: (request: TextRequest) => Stream.Stream<TextChunk, TextModelError>
    readonly stats: Effect.Effect<EngineStats>
  }
>()("@srcode/serve/TextModel") {
  /** A model on an engine, as a layer. */
  static readonly layerEngine = (options: EngineModel): Layer.Layer<TextModel> =>
    Layer.sync(TextModel, () => makeTextModel(options))
}

export interface EngineModel {
  readonly engine: Engine
  readonly tokenizer: Tokenizer
  readonly vocabSize: number
  /** Tokens that end every answer, the tokenizer's end token apart. */
  readonly endIds: ReadonlyArray<number>
  /** null: the model has none, and chat is refused with a message. */
  readonly template: ChatTemplate | null
  readonly id: string
  readonly adapters: ReadonlyMap<string, Lora>
}

/** A model on an engine; `adapters` by the name that requests ask for. */
export const makeTextModel = (options: EngineModel): TextModel["Service"] => {
  const { engine, tokenizer, template } = options
  let longestToken = 1
  for (let id = 0; id < tokenizer.vocabSize; id++)
    longestToken = Math.max(longestToken, tokenizer.tokenBytes(id).length)
  return TextModel.of({
    // composing characters (NFC) makes a text shorter, by a factor of three at most
    maxTextBytes: 3 * longestToken * engine.limits.maxTokens,
    models: [
      { id: options.id, parent: null },
      ...[...options.adapters.keys()].map((id) => ({ id, parent: options.id }))
    ],
    vocabSize: options.vocabSize,
    limits: engine.limits,
    encode: (text) => tokenizer.encode(text, { addSpecialTokens: true }),
    decode: (ids) => tokenizer.decode(ids),
    encodeChat: (messages, renderOptions) =>
      template === null
        ? Effect.fail(
            ModelError.missing({
              operation: "chat",
              message: "the model has no chat template; use /v1/completions with plain text"
            })
          )
        : Effect.map(template.render(messages, renderOptions), (text) => tokenizer.encode(text)),
    sample: (request) => {
      // an instruction model ends its turn with a token that config.json may not list
      const stopIds = [...options.endIds, tokenizer.eosId, ...request.stopIds]
      return engine
        .sample({
          ids: request.ids,
          stream: request.stream,
          lora: options.adapters.get(request.model) ?? null,
          sampling: request.sampling,
          stopIds
        })
        .pipe(
          Stream.mapError((error) => new TextModelError({ message: error.message })),
          textChunks(tokenizer, { stop: request.stop, endIds: new Set(stopIds) })
        )
    },
    stats: engine.stats
  })
}
