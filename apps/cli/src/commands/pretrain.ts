/** `srcode pretrain`: a small base model and its tokenizer from scratch, on the embedded corpus or on documents of your own. */
import { pretrainDocuments } from "@srcode/dataset"
import { UserError } from "@srcode/domain"
import { loadTokenizer, trainBpe, writeTokenizer } from "@srcode/model"
import { report } from "@srcode/pipeline"
import { readJsonLines } from "@srcode/store"
import { defaultPretrain, pretrain as pretrainModel, tinyCoderConfig } from "@srcode/trainer"
import { Console, Effect, Layer, Option, Schema, Stream } from "effect"
import { Command, Flag } from "effect/cli"
import { gpuLayerFromFlags, progressLayer } from "../layers.ts"
import { fileFlag } from "../root.ts"

const Document = Schema.Struct({ text: Schema.NonEmptyString })
const count = Schema.Int.check(Schema.isGreaterThan(0))

export const pretrain = Command.make(
  "pretrain",
  {
    out: fileFlag("out", "Model folder to write; a training that was cut off goes on there (required)"),
    documents: fileFlag("documents", 'Documents {"text"}, one a line (default: the embedded corpus)').pipe(
      Flag.optional
    ),
    steps: Flag.Int("steps").pipe(
      Flag.withDescription("Optimizer steps"),
      Flag.withSchema(count),
      Flag.withDefault(defaultPretrain.steps)
    ),
    batch: Flag.Int("batch").pipe(
      Flag.withDescription("Documents a step"),
      Flag.withSchema(count),
      Flag.withDefault(defaultPretrain.batchSize)
    ),
    vocab: Flag.Int("vocab").pipe(
      Flag.withDescription("Vocabulary of the tokenizer"),
      Flag.withSchema(count),
      Flag.withDefault(512)
    ),
    seed: Flag.Int("seed").pipe(Flag.withDescription("Seed of weights, corpus and order"), Flag.withDefault(1))
  },
  Effect.fnUntraced(function* (flags) {
    const program = Effect.gen(function* () {
      const texts = Option.isSome(flags.documents)
        ? (yield* Stream.runCollect(readJsonLines(flags.documents.value, Document))).map((d) => d.text)
        : pretrainDocuments({ seed: flags.seed, count: 24_000 })
      yield* writeTokenizer(flags.out, yield* trainBpe(texts, { vocabSize: flags.vocab }))
      const tokenizer = yield* loadTokenizer(flags.out)
      const options = { ...defaultPretrain, steps: flags.steps, batchSize: flags.batch, seed: flags.seed }
      const documents = texts.map((text) => [...tokenizer.encode(text), tokenizer.eosId])
      const long = documents.findIndex((d) => d.length > options.capacity)
      if (long >= 0)
        return yield* new UserError({
          message: `document ${long + 1} has ${documents[long]?.length} tokens; at most ${options.capacity} fit a micro-batch`
        })
      yield* pretrainModel({
        config: tinyCoderConfig(flags.vocab, tokenizer.eosId),
        documents,
        directory: flags.out,
        options,
        onStep: (p) =>
          report({
            stage: "pretrain",
            step: p.step,
            total: options.steps,
            unit: "steps",
            note: `loss ${p.loss.toFixed(4)}, ${Math.round(p.tokens / Math.max(p.seconds, 1e-9))} tokens/s`
          })
      })
      yield* Console.log(`model written to ${flags.out}`)
    })
    yield* program.pipe(Effect.provide(Layer.mergeAll(gpuLayerFromFlags, progressLayer)), Effect.scoped)
  })
).pipe(
  Command.withDescription("Train a small base model from scratch, all parameters; this is how tiny-coder was made"),
  Command.withExamples([
    {
      command: "npm run srcode -- pretrain --out models/tiny-coder",
      description: "The embedded model again (most of an hour on a software driver)"
    },
    {
      command: "npm run srcode -- pretrain --documents docs.jsonl --steps 200 --out models/mine",
      description: "On documents of your own"
    }
  ])
)
