/**
 * The chat template of a model folder: `chat_template.jinja`, else `chat_template` in `tokenizer_config.json` (a text,
 * or a list of named texts of which "default" is taken). Templates come from outside: what they throw, `raise_exception`
 * included, is a typed error.
 */
import { Template } from "@huggingface/jinja"
import { Effect, type FileSystem } from "effect"
import { exists, isRecord, oneLine, readJsonObject, readText } from "./internal/files.ts"
import { ModelError } from "./ModelError.ts"
import { tokenText } from "./Tokenizer.ts"

export interface ChatMessage {
  readonly role: "system" | "user" | "assistant" | "tool"
  readonly content: string
}

export interface RenderOptions {
  /** End with the opening of an assistant turn (default true). */
  readonly addGenerationPrompt?: boolean
  /** Further variables that the template reads, such as `enable_thinking` or `tools`. */
  readonly variables?: Readonly<Record<string, unknown>>
}

export interface ChatTemplate {
  /** The text that the model reads; tokenise it without adding special tokens again. */
  readonly render: (messages: ReadonlyArray<ChatMessage>, options?: RenderOptions) => Effect.Effect<string, ModelError>
  readonly source: string
}

const operation = "chat template"

/** Compiles a template; `file` only names it in messages. */
export const compileChatTemplate = Effect.fnUntraced(function* (
  source: string,
  tokens: Readonly<Record<string, string | null>>,
  file = "chat template"
) {
  const template = yield* Effect.try({
    try: () => new Template(source),
    catch: (cause) =>
      ModelError.malformed({
        operation,
        file,
        message: `${file}: the chat template is not valid Jinja (${oneLine(cause)})`
      })
  })
  const known = Object.fromEntries(Object.entries(tokens).filter(([, text]) => text !== null))
  const chat: ChatTemplate = {
    source,
    // without messages Python's Jinja fails where templates read the first one; this one would render nonsense
    render: Effect.fnUntraced(function* (messages: ReadonlyArray<ChatMessage>, options?: RenderOptions) {
      if (messages.length === 0) {
        return yield* ModelError.invalid({
          operation,
          file,
          message: `${file}: the chat template needs at least one message`
        })
      }
      return yield* Effect.try({
        try: () =>
          template.render({
            ...known,
            ...options?.variables,
            messages: messages.map(({ role, content }) => ({ role, content })),
            add_generation_prompt: options?.addGenerationPrompt ?? true
          }),
        catch: (cause) =>
          ModelError.invalid({
            operation,
            file,
            message: `${file}: the chat template refuses these ${messages.length} messages: ${oneLine(cause)}`
          })
      })
    })
  }
  return chat
})

/** Fails with `Missing` when the folder has no template. */
export const loadChatTemplate = Effect.fn("ChatTemplate.load")(function* (
  directory: string
): Effect.fn.Return<ChatTemplate, ModelError, FileSystem.FileSystem> {
  const configFile = `${directory}/tokenizer_config.json`
  const jinjaFile = `${directory}/chat_template.jinja`
  const config = yield* readJsonObject(operation, configFile)
  const tokens = Object.fromEntries(
    ["bos_token", "eos_token", "pad_token", "unk_token"].map((key) => [key, tokenText(config[key])])
  )
  if (yield* exists(operation, jinjaFile)) {
    return yield* compileChatTemplate(yield* readText(operation, jinjaFile), tokens, jinjaFile)
  }
  const source = templateText(config.chat_template)
  if (source === undefined) {
    return yield* ModelError.missing({
      operation,
      file: configFile,
      message: `${directory} has no chat template (chat_template.jinja or chat_template in tokenizer_config.json); prompt it with plain text`
    })
  }
  return yield* compileChatTemplate(source, tokens, configFile)
})

const templateText = (value: unknown): string | undefined => {
  if (typeof value === "string") return value
  if (!Array.isArray(value)) return undefined
  const named = value.filter(isRecord).find((entry) => entry.name === "default")
  return typeof named?.template === "string" ? named.template : undefined
}
