/** `srcode score`: log-probabilities and entropies of given tokens or completions, one line in, one line out. */
import { UserError } from "@srcode/domain"
import { Gpu } from "@srcode/gpu"
import {
  completionIds,
  type Decoder,
  loadModelTokenizer,
  makeScorer,
  promptIds,
  rowLimit,
  type Sequence,
  type Tokenizer
} from "@srcode/model"
import { readJsonLinesNumbered, requireWritable, writeJsonLines } from "@srcode/store"
import { Console, Effect, Layer, Schema, Stream } from "effect"
import { Command } from "effect/cli"
import { gpuLayerFromFlags, progressLayer } from "../layers.ts"
import { adapterFlag, modelFlags, openModel } from "../model.ts"
import { fileFlag } from "../root.ts"

const Ids = Schema.Array(Schema.Int)
const Line = Schema.Union([
  Schema.Struct({ ids: Ids }),
  Schema.Struct({ prompt: Schema.String, completion: Schema.String })
])
const Scored = Schema.Struct({ logprobs: Schema.Array(Schema.Finite), entropy: Schema.Array(Schema.Finite) })

/** Lines scored together; memory stays bounded whatever the file's length. */
const chunk = 64

export const score = Command.make(
  "score",
  {
    ...modelFlags,
    adapter: adapterFlag,
    input: fileFlag("input", 'Lines {"ids":[…]} or {"prompt":"…","completion":"…"} (required)'),
    out: fileFlag(
      "out",
      'Where to write one line {"logprobs":[…],"entropy":[…]} each; replaced only when all went well (required)'
    )
  },
  Effect.fnUntraced(function* (flags) {
    const program = Effect.gen(function* () {
      yield* requireWritable(flags.out)
      const { info } = yield* Gpu
      const capacityOf = (decoder: Decoder) => Math.min(decoder.rope.positions, rowLimit(decoder.config, info))
      const { model, lora } = yield* openModel(flags, {
        adapter: flags.adapter,
        also: (decoder, section, rank) =>
          section("activations", makeScorer(decoder, { capacity: capacityOf(decoder), rank: Math.max(1, rank) }))
      })
      const positions = capacityOf(model.decoder)
      const scorer = yield* makeScorer(model.decoder, { capacity: positions, rank: lora?.rank ?? 1 })
      // Lines of ids need no tokenizer; it is loaded for the first line of text.
      let tokenizer: Tokenizer | undefined
      const sequenceOf = Effect.fnUntraced(function* (line: number, row: typeof Line.Type) {
        const where = `${flags.input}:${line}`
        let ids: ReadonlyArray<number>
        let first = 1
        if ("ids" in row) ids = row.ids
        else {
          tokenizer ??= yield* loadModelTokenizer(model)
          const prompt = promptIds(tokenizer, row.prompt)
          ids = [...prompt, ...completionIds(tokenizer, row.completion)]
          first = Math.max(1, prompt.length)
        }
        const bad = ids.find((id) => id < 0 || id >= model.config.vocabSize)
        if (ids.length < 2)
          return yield* new UserError({ message: `${where}: at least two tokens are needed to score one` })
        if (bad !== undefined)
          return yield* new UserError({
            message: `${where}: token id ${bad} is outside the vocabulary of ${model.config.vocabSize}`
          })
        if (ids.length > positions)
          return yield* new UserError({ message: `${where}: ${ids.length} tokens exceed the limit of ${positions}` })
        const sequence: Sequence = { ids, loss: (t) => t >= first }
        return sequence
      })
      const rows = readJsonLinesNumbered(flags.input, Line).pipe(
        Stream.mapEffect(({ line, value }) => sequenceOf(line, value)),
        Stream.grouped(chunk),
        Stream.mapEffect((group) => scorer.score(lora, [...group])),
        Stream.flatMap((scores) => Stream.fromIterable(scores)),
        Stream.map((s): typeof Scored.Type => ({ logprobs: [...s.logProbs], entropy: [...s.entropy] }))
      )
      const count = yield* writeJsonLines(flags.out, Scored, rows)
      yield* Console.log(`${count} ${count === 1 ? "line" : "lines"} scored to ${flags.out}`)
    })
    yield* program.pipe(Effect.provide(Layer.mergeAll(gpuLayerFromFlags, progressLayer)), Effect.scoped)
  })
).pipe(
  Command.withDescription(
    "Score tokens: the natural log of each token's probability given those before it, and the entropy there, in nats"
  ),
  Command.withExamples([
    {
      command: "npm run srcode -- score --model DIR --input ids.jsonl --out scores.jsonl",
      description: "With the model as it is"
    },
    {
      command: "npm run srcode -- score --model DIR --adapter runs/demo/adapter --input ids.jsonl --out scores.jsonl",
      description: "With an adapter"
    }
  ])
)
