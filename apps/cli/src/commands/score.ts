/** `srcode score`: log-probabilities and entropies of given tokens or completions, one line in, one line out. */
import { UserError } from "@srcode/domain"
import { loadAdapter, loadModel, loadTokenizer, makeScorer, type Sequence, type Tokenizer } from "@srcode/model"
import { readJsonLinesNumbered, writeJsonLines } from "@srcode/store"
import { Console, Effect, Option, Schema, Stream } from "effect"
import { Command, Flag } from "effect/cli"
import { gpuLayerFromFlags } from "../layers.ts"
import { fileFlag } from "../root.ts"

const Ids = Schema.Array(Schema.Int)
const Line = Schema.Union([
  Schema.Struct({ ids: Ids }),
  Schema.Struct({ prompt: Schema.String, completion: Schema.String })
])
const Scored = Schema.Struct({ logprobs: Schema.Array(Schema.Finite), entropy: Schema.Array(Schema.Finite) })

export const modelFlag = fileFlag("model", "Model folder in Hugging Face layout (required)")
export const adapterFlag = fileFlag("adapter", "PEFT adapter folder to apply").pipe(Flag.optional)

/** Lines scored together; memory stays bounded whatever the file's length. */
const chunk = 64

export const score = Command.make(
  "score",
  {
    model: modelFlag,
    adapter: adapterFlag,
    input: fileFlag("input", 'Lines {"ids":[…]} or {"prompt":"…","completion":"…"} (required)'),
    out: fileFlag(
      "out",
      'Where to write one line {"logprobs":[…],"entropy":[…]} each; replaced only when all went well (required)'
    )
  },
  Effect.fnUntraced(function* (flags) {
    const program = Effect.gen(function* () {
      const model = yield* loadModel(flags.model)
      const lora = Option.isSome(flags.adapter) ? yield* loadAdapter(model, flags.adapter.value) : null
      const positions = model.decoder.rope.positions
      const scorer = yield* makeScorer(model.decoder, { capacity: positions, rank: lora?.rank ?? 1 })
      // Lines of ids need no tokenizer; it is loaded for the first line of text.
      let tokenizer: Tokenizer | undefined
      const sequenceOf = Effect.fnUntraced(function* (line: number, row: typeof Line.Type) {
        const where = `${flags.input}:${line}`
        let ids: ReadonlyArray<number>
        let first = 1
        if ("ids" in row) ids = row.ids
        else {
          tokenizer ??= yield* loadTokenizer(flags.model)
          const prompt = tokenizer.encode(row.prompt)
          ids = [...prompt, ...tokenizer.encode(row.completion)]
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
    yield* program.pipe(Effect.provide(gpuLayerFromFlags), Effect.scoped)
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
