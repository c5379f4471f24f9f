/** `srcode generate`: completions of a prompt, or of a file of prompts. */
import { UserError } from "@srcode/domain"
import { loadModelTokenizer, type Model, makeGenerator, promptIds, type Tokenizer } from "@srcode/model"
import { report, respond } from "@srcode/pipeline"
import { readJsonLinesNumbered, writeJsonLines } from "@srcode/store"
import { Console, Effect, Layer, Option, Schema, Stream } from "effect"
import { Command, Flag } from "effect/cli"
import { gpuLayerFromFlags, progressLayer } from "../layers.ts"
import { adapterFlag, modelFlags, openModel } from "../model.ts"
import { fileFlag } from "../root.ts"

const Prompt = Schema.Struct({ prompt: Schema.NonEmptyString })
const Completion = Schema.Struct({
  prompt: Schema.String,
  completion: Schema.String,
  truncated: Schema.Boolean,
  tokens: Schema.Int
})

/** A prompt with its length in tokens, once it is known to fit; `where` names it in the error. */
const checkPrompt = Effect.fnUntraced(function* (
  where: string,
  text: string,
  model: Model,
  tokenizer: Tokenizer,
  maxTokens: number
) {
  const { length } = promptIds(tokenizer, text)
  const positions = model.decoder.rope.positions
  if (length === 0) return yield* new UserError({ message: `${where}: the prompt is empty` })
  if (length + maxTokens > positions)
    return yield* new UserError({
      message: `${where}: ${length} tokens and ${maxTokens} new ones exceed the model's ${positions} positions; shorten it or lower --max-tokens`
    })
  return { text, length }
})

const readPrompts = (file: string, model: Model, tokenizer: Tokenizer, maxTokens: number) =>
  readJsonLinesNumbered(file, Prompt).pipe(
    Stream.mapEffect(({ line, value }) => checkPrompt(`${file}:${line}`, value.prompt, model, tokenizer, maxTokens)),
    Stream.runCollect
  )

export const generate = Command.make(
  "generate",
  {
    ...modelFlags,
    adapter: adapterFlag,
    prompt: Flag.String("prompt").pipe(
      Flag.withDescription("One prompt; the completion goes to standard output"),
      Flag.optional
    ),
    input: fileFlag("input", 'Prompts {"prompt"}, one a line').pipe(Flag.optional),
    out: fileFlag("out", 'Where to write {"prompt","completion","truncated","tokens"} lines (with --input)').pipe(
      Flag.optional
    ),
    samples: Flag.Int("samples").pipe(
      Flag.withDescription("Completions a prompt"),
      Flag.withSchema(Schema.Int.check(Schema.isGreaterThan(0))),
      Flag.withDefault(1)
    ),
    temperature: Flag.Finite("temperature").pipe(
      Flag.withDescription("0 takes the most likely token"),
      Flag.withSchema(Schema.Finite.check(Schema.isGreaterThanOrEqualTo(0))),
      Flag.withDefault(0.8)
    ),
    topP: Flag.Finite("top-p").pipe(
      Flag.withDescription("Mass of the nucleus"),
      Flag.withSchema(Schema.Finite.check(Schema.isBetween({ minimum: 0.01, maximum: 1 }))),
      Flag.withDefault(1)
    ),
    maxTokens: Flag.Int("max-tokens").pipe(
      Flag.withDescription("Most new tokens"),
      Flag.withSchema(Schema.Int.check(Schema.isGreaterThan(0))),
      Flag.withDefault(128)
    ),
    seed: Flag.Int("seed").pipe(Flag.withDescription("Seed of the sampler"), Flag.withDefault(1))
  },
  Effect.fnUntraced(function* (flags) {
    if (Option.isSome(flags.prompt) === Option.isSome(flags.input))
      return yield* new UserError({ message: "give either --prompt or --input" })
    if (Option.isSome(flags.input) && Option.isNone(flags.out))
      return yield* new UserError({ message: "--input needs --out" })
    const program = Effect.gen(function* () {
      const { model, lora } = yield* openModel(flags, { adapter: flags.adapter })
      const tokenizer = yield* loadModelTokenizer(model)
      const given = Option.isSome(flags.input)
        ? yield* readPrompts(flags.input.value, model, tokenizer, flags.maxTokens)
        : [
            yield* checkPrompt(
              "--prompt",
              Option.getOrElse(flags.prompt, () => ""),
              model,
              tokenizer,
              flags.maxTokens
            )
          ]
      const prompts = given.flatMap((p) => new Array<string>(flags.samples).fill(p.text))
      const longest = given.reduce((most, p) => Math.max(most, p.length), 0)
      const slots = Math.min(64, prompts.length)
      const generator = yield* makeGenerator(model.decoder, {
        slots,
        capacity: longest + flags.maxTokens,
        prefill: Math.max(longest, Math.min(2048, longest * slots)),
        rank: lora?.rank ?? 1
      })
      const responses = yield* respond({
        generator,
        tokenizer,
        lora,
        prompts,
        sampling: { temperature: flags.temperature, topP: flags.topP, maxTokens: flags.maxTokens, seed: flags.seed },
        ...(Option.isSome(flags.input)
          ? {
              onProgress: (step: number, total: number) =>
                report({ stage: "generate", step, total, unit: "completions" })
            }
          : {})
      })
      if (Option.isSome(flags.out)) {
        const rows = responses.map((r): typeof Completion.Type => ({
          prompt: r.prompt,
          completion: r.text,
          truncated: r.generation.truncated,
          tokens: r.generation.ids.length
        }))
        const count = yield* writeJsonLines(flags.out.value, Completion, Stream.fromIterable(rows))
        yield* Console.log(`${count} ${count === 1 ? "completion" : "completions"} written to ${flags.out.value}`)
      } else for (const r of responses) yield* Console.log(`${r.prompt}${r.text}`)
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
      description: "A file of prompts"
    }
  ])
)
