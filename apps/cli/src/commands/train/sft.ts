/** `srcode train sft`: a LoRA adapter from rows of prompt and completion, or of tokens. Resumes what was cut off. */
import { UserError } from "@srcode/domain"
import { Gpu } from "@srcode/gpu"
import {
  allocLora,
  completionIds,
  linearModules,
  loadConfig,
  loadTokenizer,
  locateAdapter,
  locateModel,
  packLora,
  promptIds,
  readAdapter,
  type Tokenizer,
  unpackLora,
  writeAdapter
} from "@srcode/model"
import { hashAdapter, hashModel, report } from "@srcode/pipeline"
import { hashFile, hashJson, type MetricsWriter, RunStore, readJsonLinesNumbered } from "@srcode/store"
import {
  completionRow,
  makeSftTrainer,
  SftConfig,
  sftMetrics,
  sftPassShapes,
  type TokenRow,
  trainSft
} from "@srcode/trainer"
import { Console, Effect, Layer, Option, Ref, Schema, Stream } from "effect"
import { Command, Flag } from "effect/cli"
import { decodeStrict, readConfig } from "../../config.ts"
import { gpuLayerFromFlags, progressLayer } from "../../layers.ts"
import { modelFlags, openModel } from "../../model.ts"
import { fileFlag } from "../../root.ts"

/** Longest row, where the model has as many positions. */
const maxTokens = 4096

const Mask = Schema.Array(Schema.Union([Schema.Literals([0, 1]), Schema.Boolean]))
const Row = Schema.Union([
  Schema.Struct({ ids: Schema.Array(Schema.Int), loss_mask: Mask }),
  Schema.Struct({ prompt: Schema.String, completion: Schema.String })
])

/** What rows are checked against, before a weight is read. */
interface RowLimits {
  readonly directory: string
  readonly vocabSize: number
  readonly positions: number
}

/** Why a row cannot be trained on, if so; a row of text has its ids from the model's own tokenizer. */
const unusable = (row: TokenRow, { vocabSize, positions }: RowLimits): string | undefined => {
  const bad = row.ids.find((id) => id < 0 || id >= vocabSize)
  if (row.ids.length !== row.lossMask.length)
    return `ids and loss_mask have ${row.ids.length} and ${row.lossMask.length} entries; they must have the same length`
  if (bad !== undefined) return `token id ${bad} is outside the vocabulary of ${vocabSize}`
  if (row.ids.length > positions)
    return `${row.ids.length} tokens exceed the model's ${positions} positions; shorten it`
  if (!row.lossMask.some((m, t) => m && t > 0))
    return "no token carries loss; give it a completion or a loss_mask with a 1 after the first token"
  return undefined
}

/** All rows as tokens; the tokenizer is loaded for the first row of text. */
const readRows = Effect.fn("readRows")(function* (file: string, limits: RowLimits) {
  let tokenizer: Tokenizer | undefined
  const rows: Array<TokenRow> = []
  yield* readJsonLinesNumbered(file, Row).pipe(
    Stream.runForEach(
      Effect.fnUntraced(function* ({ line, value }) {
        let row: TokenRow
        if ("ids" in value) row = { ids: value.ids, lossMask: value.loss_mask.map((m) => m === true || m === 1) }
        else {
          tokenizer ??= yield* loadTokenizer(limits.directory)
          const [prompt, completion] = [promptIds(tokenizer, value.prompt), completionIds(tokenizer, value.completion)]
          row = completionRow(prompt, completion, tokenizer.eosId)
        }
        const why = unusable(row, limits)
        if (why !== undefined) return yield* new UserError({ message: `${file}:${line}: ${why}` })
        rows.push(row)
      })
    )
  )
  return rows
})

export const sft = Command.make(
  "sft",
  {
    ...modelFlags,
    data: fileFlag("data", 'Rows {"prompt","completion"} or {"ids":[…],"loss_mask":[…]} (required)'),
    out: fileFlag(
      "out",
      "Where to write adapter/ and metrics.jsonl; a training that was cut off goes on there (required)",
      "DIR"
    ),
    initAdapter: fileFlag("init-adapter", "PEFT adapter to start from (default: a fresh one)", "DIR").pipe(
      Flag.optional
    ),
    config: fileFlag(
      "config",
      "Settings as JSON: steps, lr, schedule, warmup, batchSize, accumulation, clip, weightDecay, betas, eps, rank, alpha, seed, shuffle, saveEvery, checkpointing, microBatchTokens"
    ).pipe(Flag.optional)
  },
  Effect.fnUntraced(function* (flags) {
    const settings = Option.isSome(flags.config)
      ? yield* readConfig(flags.config.value, SftConfig)
      : yield* decodeStrict(SftConfig, "defaults", {})
    const program = Effect.gen(function* () {
      const store = yield* RunStore
      const gpu = yield* Gpu
      const directory = yield* locateModel(flags.model)
      const config = yield* loadConfig(directory)
      const positions = Math.min(maxTokens, config.maxPositionEmbeddings)
      const rows = yield* readRows(flags.data, { directory, vocabSize: config.vocabSize, positions })
      const initial = Option.isSome(flags.initAdapter)
        ? yield* readAdapter(yield* locateAdapter(flags.initAdapter.value), config)
        : null
      const shape = initial ?? settings
      const { model, pass } = yield* openModel(flags, {
        maxTokens,
        passes: sftPassShapes(rows, settings),
        also: (decoder, section, _, pass) =>
          Effect.gen(function* () {
            const lora = yield* section("adapter", allocLora(config, shape))
            yield* makeSftTrainer(decoder, lora, settings, pass, section)
          })
      })
      const train = Effect.gen(function* () {
        const lora = yield* allocLora(model.config, shape)
        if (initial !== null) yield* gpu.write(lora.params.flat, packLora(model.config, initial.rank, initial.tensors))
        // Opened once the first step is known: opening drops the lines from that step on, and only those.
        const metrics = yield* Ref.make(Option.none<MetricsWriter>())
        yield* trainSft({
          decoder: model.decoder,
          lora,
          fresh: initial === null,
          rows,
          config: settings,
          stateDirectory: store.path("state"),
          ...(pass === null ? {} : { pass }),
          onStart: Effect.fnUntraced(function* (first) {
            yield* Ref.set(metrics, Option.some(yield* store.metrics("sft", first + 1)))
            yield* report({ stage: "sft", step: first, total: settings.steps, unit: "steps" })
          }),
          onStep: Effect.fnUntraced(function* (step) {
            const opened = yield* Ref.get(metrics)
            if (Option.isSome(opened)) yield* opened.value.append(step.step, sftMetrics(step))
            yield* report({
              stage: "sft",
              step: step.step,
              total: settings.steps,
              unit: "steps",
              note: `loss ${step.loss.toFixed(4)}`
            })
          })
        })
        yield* writeAdapter(store.path("adapter"), model.config, {
          rank: shape.rank,
          alpha: shape.alpha,
          ...(initial === null ? {} : { useRslora: initial.useRslora }),
          targetModules: initial?.targetModules ?? linearModules,
          tensors: unpackLora(model.config, shape.rank, yield* gpu.read(lora.params.flat)),
          baseModel: flags.model
        })
        yield* store.remove("state")
        return ["adapter"]
      }).pipe(Effect.scoped)
      // What does not change the result is left out.
      const { checkpointing: _, ...decisive } = settings
      const inputsHash = hashJson({
        settings: decisive,
        rows: yield* hashFile(flags.data),
        device: gpu.info.name,
        model: yield* hashModel(yield* locateModel(flags.model)),
        precision: [flags.dtype, flags.quantize],
        initial: Option.isSome(flags.initAdapter)
          ? yield* hashAdapter(yield* locateAdapter(flags.initAdapter.value))
          : null
      })
      const result = yield* store.stage({ name: "sft", inputsHash, partial: ["state"], run: () => train })
      yield* Console.log(`${result.skipped ? "nothing to do, already trained: " : ""}adapter ${store.path("adapter")}`)
    })
    yield* program.pipe(
      Effect.provide(Layer.mergeAll(gpuLayerFromFlags, RunStore.layer(flags.out), progressLayer)),
      Effect.scoped
    )
  })
).pipe(
  Command.withDescription("Fine-tune a LoRA adapter on completions (loss on completion tokens and the end token)"),
  Command.withExamples([
    {
      command: "npm run srcode -- train sft --model DIR --data rows.jsonl --out runs/sft",
      description: "With the defaults"
    },
    {
      command:
        "npm run srcode -- train sft --model DIR --data rows.jsonl --config sft.json --init-adapter runs/a/adapter --out runs/b",
      description: "Going on from an adapter"
    }
  ])
)
