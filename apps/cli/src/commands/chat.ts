/** `srcode chat`: a conversation with a model on the terminal, or with lines from a pipe. */
import { UserError } from "@srcode/domain"
import type { TextModel } from "@srcode/serve"
import { Console, Effect, Layer, Option, Ref, Stream } from "effect"
import { Command, Flag } from "effect/cli"
import { type Conversation, fitConversation, newConversation, withMessage } from "../chat/Conversation.ts"
import { type ChatInput, openInput } from "../chat/input.ts"
import { oneLine } from "../errors.ts"
import { gpuLayerFromFlags, progressLayer } from "../layers.ts"
import { adapterFlag, modelFlags } from "../model.ts"
import { type SamplingChoice, samplingFlags, samplingOf } from "../sampling.ts"
import { print } from "../terminal.ts"
import { openTextModel, readTextModel } from "../textModel.ts"

const adapterName = "+adapter"
const fence = '"""'

const help = [
  "/system TEXT   set the system message; without TEXT take it away",
  "/reset         forget the conversation",
  "/help          this list",
  "/exit          leave, as Ctrl-D does",
  `${fence}            begins and ends a message of several lines`,
  "Ctrl-C         stops an answer; at the prompt, twice leaves"
].join("\n")

/** What a person is told, apart from the answers. */
const note = (text: string) => Console.error(`srcode: ${text}`)

/** A line that begins with a slash and a word is for the program; comments of code (`//`, `/*`) are not. */
const commandOf = (line: string): { readonly name: string; readonly rest: string } | undefined => {
  const match = /^\/([a-z]+)(?:\s+(.*))?$/.exec(line.trim())
  return match === null ? undefined : { name: match[1] ?? "", rest: (match[2] ?? "").trim() }
}

type Flags = SamplingChoice & { readonly adapter: Option.Option<string> }

/**
 * The model's answer to the last message, printed as it comes, and the conversation with both. A message that the
 * template refuses or that is too long is told and taken back.
 */
const answer = Effect.fnUntraced(function* (
  text: TextModel["Service"],
  flags: Flags,
  input: ChatInput,
  before: Conversation,
  message: string,
  turn: number
) {
  const limit = text.limits.maxTokens
  // an answer has so much of the context before the oldest messages are left out
  const room = Math.min(flags.maxTokens, Math.floor(limit / 2))
  const fitted = yield* Effect.result(
    fitConversation(withMessage(before, { role: "user", content: message }), (messages) => text.encodeChat(messages), {
      limit,
      room
    })
  )
  if (fitted._tag === "Failure") {
    yield* note(oneLine(fitted.failure.message))
    return before
  }
  const { conversation, ids } = fitted.success
  if (ids.length + room > limit) {
    yield* note(
      `the message is ${ids.length} tokens with what goes around it, and the context of ${limit} has ${limit - room} for it; send less`
    )
    return before
  }
  const fresh = conversation.leftOut - before.leftOut
  if (fresh > 0)
    yield* note(
      `the conversation outgrew the context of ${limit} tokens: its ${fresh} oldest messages are left out from here on`
    )
  const said = yield* Ref.make("")
  const maxTokens = Math.min(flags.maxTokens, limit - ids.length)
  const speak = text
    .sample({
      model: Option.isSome(flags.adapter) ? adapterName : (text.models[0]?.id ?? ""),
      ids,
      stream: turn,
      sampling: { ...samplingOf(flags), maxTokens },
      stop: flags.stop,
      stopIds: []
    })
    .pipe(
      Stream.runForEach((chunk) =>
        Effect.gen(function* () {
          yield* Ref.update(said, (sofar) => sofar + chunk.text)
          yield* print(chunk.text)
          if (chunk.finish === "length") yield* note(`the answer was cut at ${maxTokens} tokens`)
        })
      ),
      Effect.as("whole" as const)
    )
  const end = yield* Effect.raceFirst(speak, Effect.as(input.interrupted, "stopped" as const))
  yield* print("\n")
  if (end === "stopped") yield* note("stopped")
  return withMessage(conversation, { role: "assistant", content: yield* Ref.get(said) })
})

/** A message of one line, or of the lines between two fences; undefined when there is no more or the user leaves. */
const readMessage = Effect.fnUntraced(function* (input: ChatInput) {
  const lines: Array<string> = []
  let fenced = false
  let warned = false
  while (true) {
    const read = input.line(fenced ? "... " : "> ").pipe(
      Effect.map((line) => ({ line })),
      Effect.catchTag("Done", () => Effect.succeed("end" as const))
    )
    const next = yield* Effect.raceFirst(read, Effect.as(input.interrupted, "interrupt" as const))
    if (next === "end") return lines.length > 0 ? lines.join("\n") : undefined
    if (next === "interrupt") {
      if (input.interactive) yield* print("\n")
      if (!input.interactive || warned) return yield* Effect.interrupt
      warned = true
      lines.length = 0
      fenced = false
      yield* note("Ctrl-C again, Ctrl-D or /exit leaves")
      continue
    }
    if (next.line.trim() === fence) {
      if (fenced) return lines.join("\n")
      fenced = true
    } else if (fenced) lines.push(next.line)
    else return next.line
  }
})

const converse = Effect.fnUntraced(function* (
  text: TextModel["Service"],
  flags: Flags & { readonly system: Option.Option<string> }
) {
  const input = yield* openInput
  if (input.interactive)
    yield* note(`${text.models[0]?.id}, ${text.limits.maxTokens} tokens of context; /help lists what you can do`)
  let conversation = newConversation(Option.getOrNull(flags.system))
  let turn = 0
  while (true) {
    const message = yield* readMessage(input)
    if (message === undefined) return
    const command = commandOf(message)
    if (command === undefined) {
      if (message.trim() !== "") conversation = yield* answer(text, flags, input, conversation, message, turn++)
      continue
    }
    switch (command.name) {
      case "exit":
      case "quit":
        return
      case "reset":
        conversation = newConversation(conversation.system)
        turn = 0
        yield* note("the conversation begins anew")
        break
      case "system":
        conversation = { ...conversation, system: command.rest === "" ? null : command.rest }
        yield* note(command.rest === "" ? "there is no system message from here on" : "the system message is set")
        break
      case "help":
        yield* Console.error(help)
        break
      default:
        yield* note(`there is no /${command.name}; /help lists what there is`)
    }
  }
})

export const chat = Command.make(
  "chat",
  {
    ...modelFlags,
    adapter: adapterFlag,
    system: Flag.String("system").pipe(Flag.withDescription("The system message"), Flag.optional),
    ...samplingFlags({ maxTokens: 1024 })
  },
  Effect.fnUntraced(function* (flags) {
    const program = Effect.gen(function* () {
      const adapters = Option.isSome(flags.adapter) ? [[adapterName, flags.adapter.value] as const] : []
      const files = yield* readTextModel(flags.model, adapters)
      if (files.template === null)
        return yield* new UserError({
          message: `${flags.model} has no chat template; complete plain text with srcode generate`
        })
      yield* converse(yield* openTextModel(flags, files, { maxSequences: 1 }), flags)
    })
    yield* program.pipe(Effect.provide(Layer.mergeAll(gpuLayerFromFlags, progressLayer)), Effect.scoped)
  })
).pipe(
  Command.withDescription("Talk with a model on the terminal"),
  Command.withExamples([
    {
      command: `npm run srcode -- chat --model ORG/NAME --system "You write secure C."`,
      description: "A conversation"
    },
    {
      command: "npm run srcode -- chat --model DIR --adapter runs/demo/adapter < questions.txt",
      description: "Each line is a message"
    }
  ])
)
