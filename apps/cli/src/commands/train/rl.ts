/**
 * `srcode train rl`: PPO on prompts with a teacher: its verdict is the sequence reward, its secure spans the token
 * rewards. The reference is the model as given; pass a merged or tuned model to anchor there.
 */
import { cwe, type Task } from "@srcode/domain"
import { Gpu } from "@srcode/gpu"
import {
  allocLora,
  loadConfig,
  loadModelTokenizer,
  loadTokenizer,
  locateAdapter,
  locateModel,
  makeGenerator,
  readAdapter
} from "@srcode/model"
import { hashAdapter, hashModel, maxSequence, planReinforce, reinforce } from "@srcode/pipeline"
import { hashFile, hashJson, RunStore, readJsonLines } from "@srcode/store"
import { Teacher } from "@srcode/teacher"
import { makePpoTrainer, PpoSettings, ppoPassShapes, RewardPreset } from "@srcode/trainer"
import { Console, Effect, Layer, Option, Schema, Stream } from "effect"
import { Command, Flag } from "effect/cli"
import { decodeStrict, readConfig } from "../../config.ts"
import { gpuLayerFromFlags, progressLayer, recordingsFlag, teacherFlag, teacherLayer } from "../../layers.ts"
import { modelFlags, openModel } from "../../model.ts"
import { fileFlag } from "../../root.ts"

const Prompt = Schema.Struct({ prompt: Schema.NonEmptyString, reference: Schema.optionalKey(Schema.String) })

export const rl = Command.make(
  "rl",
  {
    ...modelFlags,
    data: fileFlag(
      "data",
      'Prompts {"prompt","reference"?}; a reference only bounds how short an earning response may be (required)'
    ),
    out: fileFlag(
      "out",
      "Where to write adapter/, value_head.safetensors, rollouts.jsonl and metrics.jsonl (required)",
      "DIR"
    ),
    initAdapter: fileFlag(
      "init-adapter",
      "PEFT adapter that the policy starts from and that is its reference (default: a fresh one on the model itself)",
      "DIR"
    ).pipe(Flag.optional),
    preset: Flag.Literals("preset", RewardPreset.literals).pipe(
      Flag.withDescription("Token rewards: gated (the default), naive, literal, or none"),
      Flag.optional
    ),
    config: fileFlag("config", "PPO settings as JSON (default: see docs/train.md)").pipe(Flag.optional),
    teacher: teacherFlag,
    recordings: recordingsFlag
  },
  Effect.fnUntraced(function* (flags) {
    const read = Option.isSome(flags.config)
      ? yield* readConfig(flags.config.value, PpoSettings)
      : yield* decodeStrict(PpoSettings, "defaults", {})
    const settings = Option.isSome(flags.preset) ? { ...read, preset: flags.preset.value } : read
    const program = Effect.gen(function* () {
      const store = yield* RunStore
      const teacher = yield* Teacher
      const gpu = yield* Gpu
      const prompts = yield* Stream.runCollect(readJsonLines(flags.data, Prompt))
      const tasks = prompts.map(
        (p, i): Task => ({
          id: String(i),
          kind: "generate",
          group: String(i),
          language: "c",
          cwe: cwe(119),
          difficulty: 0,
          prompt: p.prompt,
          completion: p.reference ?? ""
        })
      )
      const train = Effect.gen(function* () {
        const directory = yield* locateModel(flags.model)
        const config = yield* loadConfig(directory)
        const initial = Option.isSome(flags.initAdapter)
          ? yield* readAdapter(yield* locateAdapter(flags.initAdapter.value), config)
          : undefined
        const limit = Math.min(maxSequence, config.maxPositionEmbeddings)
        const needs = yield* planReinforce({
          tokenizer: yield* loadTokenizer(directory),
          ...(initial === undefined ? {} : { initial }),
          ...{ tasks, settings, limit }
        })
        const { model, pass } = yield* openModel(flags, {
          maxTokens: limit,
          passes: ppoPassShapes(needs.ppo),
          also: (decoder, section, _, pass) =>
            Effect.gen(function* () {
              const reference = initial === undefined ? null : yield* section("reference", allocLora(config, initial))
              yield* section("engine", makeGenerator(decoder, needs.generator))
              yield* makePpoTrainer(decoder, needs.ppo, new Float32Array(0), reference, { pass, section })
            })
        })
        const tokenizer = yield* loadModelTokenizer(model)
        return yield* reinforce({
          model,
          tokenizer,
          ...(initial === undefined ? {} : { initial }),
          tasks,
          settings,
          seed: settings.seed,
          directory: "",
          stage: "rl",
          ...(pass === null ? {} : { pass }),
          score: (responses) =>
            Effect.forEach(responses, (r) =>
              Effect.map(teacher.verdict({ prompt: r.prompt, response: r.text, language: "c" }), (v) =>
                v.vulnerable === null ? 0 : v.vulnerable ? -1 : 1
              )
            )
        })
      }).pipe(Effect.scoped)
      // What does not change the result is left out.
      const { checkpointing: _, ...decisive } = settings
      const inputsHash = hashJson({
        settings: decisive,
        data: yield* hashFile(flags.data),
        model: yield* hashModel(yield* locateModel(flags.model)),
        precision: [flags.dtype, flags.quantize],
        initial: Option.isSome(flags.initAdapter)
          ? yield* hashAdapter(yield* locateAdapter(flags.initAdapter.value))
          : null,
        device: gpu.info.name,
        teacher: teacher.name
      })
      const result = yield* store.stage({
        name: "rl",
        inputsHash,
        partial: ["state", "rollouts.jsonl"],
        run: () => train
      })
      yield* Console.log(`${result.skipped ? "nothing to do, already trained: " : ""}adapter ${store.path("adapter")}`)
    })
    yield* program.pipe(
      Effect.provide(
        Layer.mergeAll(
          gpuLayerFromFlags,
          RunStore.layer(flags.out),
          teacherLayer(flags.teacher, flags.recordings),
          progressLayer
        )
      ),
      Effect.scoped
    )
  })
).pipe(
  Command.withDescription("Train a LoRA adapter by PPO with token-level rewards from a teacher"),
  Command.withExamples([
    {
      command: "npm run srcode -- train rl --model DIR --data prompts.jsonl --out runs/rl",
      description: "Gated token rewards, rule teacher"
    },
    {
      command: "npm run srcode -- train rl --model DIR --data prompts.jsonl --preset none --out runs/rl-none",
      description: "The sequence reward alone"
    }
  ])
)
