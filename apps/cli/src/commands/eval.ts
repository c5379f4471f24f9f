/** `srcode eval`: the embedded benchmark, by compiling and running every sample in the sandbox. */
import { EvalResult, SampleOutcome } from "@srcode/domain"
import { resultsTable } from "@srcode/evals"
import { loadModelTokenizer, loadTokenizer, locateModel, makeGenerator } from "@srcode/model"
import { EvaluationConfig, measure, planMeasure } from "@srcode/pipeline"
import { requireWritable, writeJson, writeJsonLines } from "@srcode/store"
import { Console, Effect, Layer, Option, Stream } from "effect"
import { Command, Flag } from "effect/cli"
import { decodeStrict } from "../config.ts"
import { gpuLayerFromFlags, judgingLayer, progressLayer } from "../layers.ts"
import { adapterFlag, modelFlags, openModel } from "../model.ts"
import { countFlag, fileFlag, seedFlag } from "../root.ts"
import { temperatureFlag, topPFlag } from "../sampling.ts"

export const evaluate = Command.make(
  "eval",
  {
    ...modelFlags,
    adapter: adapterFlag,
    limit: countFlag("limit", "Prompts to take, spread over all families (default: all 232)").pipe(Flag.optional),
    temperature: temperatureFlag,
    topP: topPFlag(0.95),
    seed: seedFlag("Seed of the sampler"),
    out: fileFlag("out", "Where to write the result as JSON; the samples go beside it as .samples.jsonl").pipe(
      Flag.optional
    )
  },
  Effect.fnUntraced(function* (flags) {
    const evaluation = yield* decodeStrict(EvaluationConfig, "flags", {
      temperature: flags.temperature,
      topP: flags.topP,
      limit: Option.getOrNull(flags.limit)
    })
    const program = Effect.gen(function* () {
      if (Option.isSome(flags.out)) yield* requireWritable(flags.out.value)
      const directory = yield* locateModel(flags.model)
      const { engine } = yield* planMeasure(yield* loadTokenizer(directory), evaluation)
      const { model, lora } = yield* openModel(flags, {
        adapter: flags.adapter,
        also: (decoder, section, rank) => section("engine", makeGenerator(decoder, engine(rank)))
      })
      const tokenizer = yield* loadModelTokenizer(model)
      const { outcomes, result } = yield* measure({ model, tokenizer, lora }, lora === null ? "model" : "adapter", {
        evaluation,
        seed: flags.seed
      })
      yield* Console.log(resultsTable([result]))
      if (Option.isSome(flags.out)) {
        yield* writeJson(flags.out.value, EvalResult, result)
        yield* writeJsonLines(
          `${flags.out.value.replace(/\.json$/, "")}.samples.jsonl`,
          SampleOutcome,
          Stream.fromIterable(outcomes)
        )
        yield* Console.log(`\nwritten to ${flags.out.value}`)
      }
    })
    yield* program.pipe(Effect.provide(Layer.mergeAll(gpuLayerFromFlags, judgingLayer, progressLayer)), Effect.scoped)
  })
).pipe(
  Command.withDescription("Measure a model on the embedded benchmark: compiles, functional, secure, and both (FS@1)"),
  Command.withExamples([
    {
      command: "npm run srcode -- eval --model packages/model/assets/tiny-coder",
      description: "The embedded base model"
    },
    {
      command:
        "npm run srcode -- eval --model packages/model/assets/tiny-coder --adapter runs/demo/adapter --out result.json",
      description: "With an adapter"
    }
  ])
)
