/**
 * `srcode generate`: completions of a prompt as it is typed out, or of a file of prompts or conversations.
 *
 * A file's completions are kept as they are done: a killed batch goes on where it stopped and ends in the same bytes.
 */
import { UserError } from "@srcode/domain"
import { locateAdapter, promptIds } from "@srcode/model"
import { hashAdapter, hashModel, report } from "@srcode/pipeline"
import type { TextModel } from "@srcode/serve"
import { hashJson, openBatch, readJsonLinesNumbered, requireWritable } from "@srcode/store"
import { Console, Effect, Layer, Option, Ref, Schema, Stream } from "effect"
import { Command, Flag } from "effect/cli"
import { gpuLayerFromFlags, progressLayer } from "../layers.ts"
import { adapterFlag, type ModelChoice, modelFlags } from "../model.ts"
import { countFlag, fileFlag } from "../root.ts"
import { type SamplingChoice, samplingFlags, samplingOf } from "../sampling.ts"
import { print, readStdin } from "../terminal.ts"
import { longestSequence, openTextModel, readTextModel, type TextModelFiles } from "../textModel.ts"

const Message = Schema.Struct({ role: Schema.Literals(["system", "user", "assistant"]), content: Schema.String })
const Line = Schema.Union([
  Schema.Struct({ prompt: Schema.NonEmptyString }),
  Schema.Struct({ messages: Schema.NonEmptyArray(Message) })
])
type Line = typeof Line.Type

const Completion = Schema.Struct({
  index: Schema.Int,
  prompt: Schema.optionalKey(Schema.String),
  messages: Schema.optionalKey(Schema.Array(Message)),
  completion: Schema.String,
  truncated: Schema.Boolean,
  tokens: Schema.Int,
  settings: Schema.String
})

interface Flags extends ModelChoice, SamplingChoice {
  readonly adapter: Option.Option<string>
  readonly samples: number
  readonly maxSequences: number
}

interface Prompt {
  readonly given: Line
  readonly ids: ReadonlyArray<number>
}

const adapterName = "+adapter"

/** The tokens of a line, once they are known to fit; `where` names it in the error. */
const encodePrompt = Effect.fnUntraced(function* (where: string, given: Line, files: TextModelFiles, flags: Flags) {
  const { template, tokenizer } = files
  let ids: ReadonlyArray<number>
  if ("prompt" in given) ids = promptIds(tokenizer, given.prompt)
  else if (template === null)
    return yield* new UserError({ message: `${where}: ${flags.model} has no chat template; give {"prompt"} lines` })
  else {
    const text = yield* Effect.mapError(
      template.render(given.messages),
      (error) => new UserError({ message: `${where}: ${error.message}` })
    )
    ids = tokenizer.encode(text)
  }
  const positions = longestSequence(files)
  if (ids.length === 0) return yield* new UserError({ message: `${where}: the prompt is empty` })
  if (ids.length + flags.maxTokens > positions)
    return yield* new UserError({
      message: `${where}: ${ids.length} tokens and ${flags.maxTokens} new ones exceed the model's ${positions} positions; shorten it or lower --max-tokens`
    })
  const prompt: Prompt = { given, ids }
  return prompt
})

/** Opens the model with room for these prompts and no more. */
const openFor = (files: TextModelFiles, flags: Flags, prompts: ReadonlyArray<Prompt>) =>
  openTextModel(flags, files, {
    maxSequences: Math.min(flags.maxSequences, prompts.length * flags.samples),
    maxTokens: prompts.reduce((most, { ids }) => Math.max(most, ids.length), 0) + flags.maxTokens
  })

/** Sample number `stream` of the seed, in pieces. */
const sampleText = (text: TextModel["Service"], flags: Flags, prompt: Prompt, stream: number) =>
  text.sample({
    model: Option.isSome(flags.adapter) ? adapterName : (text.models[0]?.id ?? ""),
    ids: prompt.ids,
    stream,
    sampling: samplingOf(flags),
    stop: flags.stop,
    stopIds: []
  })

const complete = (text: TextModel["Service"], flags: Flags, prompt: Prompt, stream: number) =>
  Stream.runFold(
    sampleText(text, flags, prompt, stream),
    () => ({ completion: "", truncated: false, tokens: 0 }),
    (sofar, chunk) => ({
      completion: sofar.completion + chunk.text,
      truncated: chunk.finish === "length",
      tokens: chunk.sampled
    })
  )

/** One prompt to standard output: a single answer as it comes, several when they are done. */
const generateOne = Effect.fnUntraced(function* (files: TextModelFiles, flags: Flags, given: string) {
  const text = given === "-" ? yield* readStdin : given
  const prompt = yield* encodePrompt("--prompt", { prompt: text }, files, flags)
  const model = yield* openFor(files, flags, [prompt])
  if (flags.samples === 1) {
    yield* print(text)
    return yield* Stream.runForEach(sampleText(model, flags, prompt, 0), (chunk) => print(chunk.text)).pipe(
      Effect.ensuring(print("\n"))
    )
  }
  const samples = Array.from({ length: flags.samples }, (_, stream) => complete(model, flags, prompt, stream))
  for (const { completion } of yield* Effect.all(samples, { concurrency: "unbounded" }))
    yield* Console.log(`${text}${completion}`)
})

/** Everything that decides the rows of a batch, but for the device. */
const settingsOf = Effect.fnUntraced(function* (files: TextModelFiles, flags: Flags, lines: ReadonlyArray<Line>) {
  const adapter = Option.isSome(flags.adapter) ? yield* hashAdapter(yield* locateAdapter(flags.adapter.value)) : null
  return hashJson({
    model: yield* hashModel(files.directory),
    adapter,
    dtype: flags.dtype,
    quantize: flags.quantize,
    // the most likely token needs neither seed nor filters
    sampling: flags.temperature === 0 ? { temperature: 0, maxTokens: flags.maxTokens } : samplingOf(flags),
    stop: flags.stop,
    samples: flags.samples,
    lines
  }).slice(0, 16)
})

const generateBatch = Effect.fnUntraced(function* (files: TextModelFiles, flags: Flags, input: string, out: string) {
  const prompts = yield* readJsonLinesNumbered(input, Line).pipe(
    Stream.mapEffect(({ line, value }) => encodePrompt(`${input}:${line}`, value, files, flags)),
    Stream.runCollect
  )
  const total = prompts.length * flags.samples
  const settings = yield* settingsOf(
    files,
    flags,
    prompts.map(({ given }) => given)
  )
  const batch = yield* openBatch(out, Completion, { total, settings })
  if (batch.resumed > 0) yield* Console.error(`srcode: ${batch.resumed} of ${total} completions are there; going on`)
  if (batch.missing.length > 0) {
    const model = yield* openFor(files, flags, prompts)
    const done = yield* Ref.make(batch.resumed)
    const tell = (step: number) => report({ stage: "generate", step, total, unit: "completions" })
    yield* tell(batch.resumed)
    yield* Effect.forEach(
      batch.missing,
      Effect.fnUntraced(function* (index) {
        const prompt = prompts[Math.floor(index / flags.samples)]
        if (prompt === undefined) return
        const answer = yield* complete(model, flags, prompt, index)
        yield* batch.add({ index, ...prompt.given, ...answer, settings })
        yield* tell(yield* Ref.updateAndGet(done, (count) => count + 1))
      }),
      // a little ahead of the batch, so that a place is taken again at once
      { concurrency: 2 * flags.maxSequences, discard: true }
    ).pipe(
      Effect.onInterrupt(() =>
        Effect.flatMap(Ref.get(done), (count) =>
          Console.error(`srcode: ${count} of ${total} completions are kept; the same command goes on from there`)
        )
      )
    )
  }
  yield* batch.finish
  yield* Console.log(`${total} ${total === 1 ? "completion" : "completions"} written to ${out}`)
})

export const generate = Command.make(
  "generate",
  {
    ...modelFlags,
    adapter: adapterFlag,
    prompt: Flag.String("prompt").pipe(
      Flag.withDescription("One prompt, - for standard input; prompt and completion go to standard output"),
      Flag.optional
    ),
    input: fileFlag("input", 'Lines {"prompt"} or {"messages":[{"role","content"}]}').pipe(Flag.optional),
    out: fileFlag(
      "out",
      "Where to write a line for each completion (with --input); unfinished work is kept beside it in FILE.partial"
    ).pipe(Flag.optional),
    samples: Flag.Int("samples").pipe(
      Flag.withDescription("Completions a prompt (default 1)"),
      Flag.withSchema(Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 1 << 16 }))),
      Flag.withDefault(1)
    ),
    maxSequences: countFlag("max-sequences", "Completions made at once (default 64)").pipe(Flag.withDefault(64)),
    ...samplingFlags({ maxTokens: 128 })
  },
  Effect.fnUntraced(function* (flags) {
    if (Option.isSome(flags.prompt) === Option.isSome(flags.input))
      return yield* new UserError({ message: "give either --prompt or --input" })
    const program = Effect.gen(function* () {
      const adapters = Option.isSome(flags.adapter) ? [[adapterName, flags.adapter.value] as const] : []
      const files = yield* readTextModel(flags.model, adapters)
      if (Option.isSome(flags.prompt)) return yield* generateOne(files, flags, flags.prompt.value)
      if (Option.isNone(flags.input) || Option.isNone(flags.out))
        return yield* new UserError({ message: "--input needs --out" })
      yield* requireWritable(flags.out.value)
      return yield* generateBatch(files, flags, flags.input.value, flags.out.value)
    })
    yield* program.pipe(Effect.provide(Layer.mergeAll(gpuLayerFromFlags, progressLayer)), Effect.scoped)
  })
).pipe(
  Command.withDescription("Complete prompts with a model, seeded"),
  Command.withExamples([
    {
      command: `npm run srcode -- generate --model packages/model/assets/tiny-coder --prompt "int add(int a, int b) {"`,
      description: "One completion"
    },
    {
      command:
        "npm run srcode -- generate --model DIR --adapter runs/demo/adapter --input prompts.jsonl --samples 4 --out completions.jsonl",
      description: "A file of prompts; run it again after a kill and it goes on"
    }
  ])
)
