/** `srcode pretrain`: a small base model and its tokenizer from scratch, on the embedded corpus or on documents of your own. */
import { pretrainDocuments } from "@srcode/dataset"
import { UserError } from "@srcode/domain"
import { loadTokenizer, trainBpe, writeTokenizer } from "@srcode/model"
import { report } from "@srcode/pipeline"
import { hashFile, hashJson, readJson, readJsonLinesNumbered, writeJson } from "@srcode/store"
import { defaultPretrain, pretrain as pretrainModel, tinyCoderConfig } from "@srcode/trainer"
import { Console, Effect, FileSystem, Layer, Option, Schema, Stream } from "effect"
import { Command, Flag } from "effect/cli"
import { gpuLayerFromFlags, progressLayer } from "../layers.ts"
import { countFlag, fileFlag, seedFlag } from "../root.ts"

/** What the state beside it was made from. */
const Inputs = Schema.Struct({ hash: Schema.String })

/** A state that was saved with other settings or documents is never mixed with these; `fresh` when there is none. */
const claimState = Effect.fn("claimState")(function* (directory: string, hash: string) {
  const fs = yield* FileSystem.FileSystem
  const file = `${directory}/inputs.json`
  if (yield* fs.exists(file).pipe(Effect.orElseSucceed(() => false))) {
    if ((yield* readJson(file, Inputs)).hash !== hash)
      return yield* new UserError({
        message: `${directory} is the state of a training with other settings or documents; repeat that command, or remove it to start anew`
      })
  } else yield* writeJson(file, Inputs, { hash })
})

const Document = Schema.Struct({ text: Schema.NonEmptyString })

export const pretrain = Command.make(
  "pretrain",
  {
    out: fileFlag("out", "Model folder to write; a training that was cut off goes on there (required)", "DIR"),
    documents: fileFlag("documents", 'Documents {"text"}, one a line (default: the embedded corpus)').pipe(
      Flag.optional
    ),
    steps: countFlag("steps", `Optimizer steps (default ${defaultPretrain.steps})`).pipe(
      Flag.withDefault(defaultPretrain.steps)
    ),
    batch: countFlag("batch", `Documents a step (default ${defaultPretrain.batchSize})`).pipe(
      Flag.withDefault(defaultPretrain.batchSize)
    ),
    vocab: countFlag("vocab", "Vocabulary of the tokenizer (default 512)").pipe(Flag.withDefault(512)),
    seed: seedFlag("Seed of weights, corpus and order")
  },
  Effect.fnUntraced(function* (flags) {
    const program = Effect.gen(function* () {
      const rows = Option.isSome(flags.documents)
        ? yield* Stream.runCollect(readJsonLinesNumbered(flags.documents.value, Document))
        : []
      const texts = Option.isSome(flags.documents)
        ? rows.map((row) => row.value.text)
        : pretrainDocuments({ seed: flags.seed, count: 24_000 })
      const documentsHash = Option.isSome(flags.documents) ? yield* hashFile(flags.documents.value) : null
      const { batch, seed, steps, vocab } = flags
      const bpe = yield* trainBpe(texts, { vocabSize: vocab })
      yield* claimState(`${flags.out}/state`, hashJson({ batch, seed, steps, vocab, documents: documentsHash }))
      yield* writeTokenizer(flags.out, bpe)
      const tokenizer = yield* loadTokenizer(flags.out)
      const config = tinyCoderConfig(vocab, tokenizer.eosId)
      const options = { ...defaultPretrain, steps, batchSize: batch, seed }
      const documents = texts.map((text) => [...tokenizer.encode(text), tokenizer.eosId])
      const most = Math.min(options.capacity, config.maxPositionEmbeddings)
      const long = documents.findIndex((d) => d.length > most)
      if (long >= 0) {
        const where = Option.match(flags.documents, {
          onNone: () => `document ${long + 1}`,
          onSome: (file) => `${file}:${rows[long]?.line}`
        })
        return yield* new UserError({
          message: `${where}: ${documents[long]?.length} tokens, and the model takes at most ${most}; split the document`
        })
      }
      yield* pretrainModel({
        config,
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
