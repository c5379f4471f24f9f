/** `srcode bench`: where the time of a model's work goes on this device, kernel by kernel. */
import { profileModel, type WorkloadName, workloadNames } from "@srcode/bench"
import { UserError } from "@srcode/domain"
import { locateModel, modelPresets } from "@srcode/model"
import { requireWritable } from "@srcode/store"
import { Effect, Option, Schema } from "effect"
import { Command, Flag } from "effect/cli"
import { gpuLayerFromFlags } from "../layers.ts"
import { precisionFlags } from "../model.ts"
import { fileFlag } from "../root.ts"

const positive = Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 1 << 20 }))

const size = (name: string, description: string) =>
  Flag.Int(name).pipe(Flag.withDescription(description), Flag.withSchema(positive), Flag.optional)

const workloadsOf = (text: string): Effect.Effect<ReadonlyArray<WorkloadName>, UserError> => {
  const names = text.split(",").filter((name) => name !== "")
  const unknown = names.find((name) => !workloadNames.some((known) => known === name))
  return unknown !== undefined || names.length === 0
    ? Effect.fail(
        new UserError({ message: `--only ${text || '""'} is none of the work there is: ${workloadNames.join(", ")}` })
      )
    : Effect.succeed(workloadNames.filter((name) => names.includes(name)))
}

export const bench = Command.make(
  "bench",
  {
    model: fileFlag(
      "model",
      "Model folder, or ORG/NAME[@REVISION] in the local cache (default: tiny-coder)",
      "MODEL"
    ).pipe(Flag.optional),
    preset: Flag.Literals("preset", Object.keys(modelPresets)).pipe(
      Flag.withDescription("A model of this shape with random weights made on the device, instead of --model"),
      Flag.optional
    ),
    layers: size("layers", "Layers of the preset, where fewer are wanted (default: all)"),
    ...precisionFlags,
    only: Flag.String("only").pipe(
      Flag.withDescription(`Work to profile (default: all): ${workloadNames.join(",")}`),
      Flag.withMetavar("WORK,..."),
      Flag.withDefault(workloadNames.join(","))
    ),
    batch: size(
      "batch",
      "Sequences trained, scored or generated at once (default 8 for tiny-coder's size, 2 for larger models)"
    ),
    sequence: size("sequence", "Tokens of a trained or scored sequence (default 110, or 2048)"),
    prompt: size("prompt", "Tokens of a prompt (default 40, or 256)"),
    steps: size("steps", "Tokens decoded after a prompt (default 32)"),
    rank: size("rank", "Rank of the trained adapter (default 8)"),
    checkpointing: Flag.Literals("checkpointing", ["none", "selective", "layer"]).pipe(
      Flag.withDescription(
        "What a training step keeps for its backward pass; default none: all of it is kept, nothing computed again"
      ),
      Flag.withDefault("none" as const)
    ),
    rounds: Flag.Int("rounds").pipe(
      Flag.withDescription("Ordinary runs, of which the median counts (default 3)"),
      Flag.withSchema(positive),
      Flag.withDefault(3)
    ),
    trace: fileFlag("trace", "Write a trace for chrome://tracing or ui.perfetto.dev").pipe(Flag.optional),
    out: fileFlag("out", "Where the figures go (default: bench/results/profile-MODEL-DEVICE.json)").pipe(Flag.optional)
  },
  Effect.fnUntraced(function* (flags) {
    if (Option.isSome(flags.model) && Option.isSome(flags.preset))
      return yield* new UserError({ message: "--model and --preset exclude each other; give one" })
    if (Option.isSome(flags.layers) && Option.isNone(flags.preset))
      return yield* new UserError({ message: "--layers shortens a --preset; a model has the layers it has" })
    const given = Option.getOrUndefined
    const workloads = yield* workloadsOf(flags.only)
    const model = Option.isSome(flags.model) ? yield* locateModel(flags.model.value) : undefined
    for (const file of [flags.trace, flags.out]) if (Option.isSome(file)) yield* requireWritable(file.value)
    yield* profileModel({
      model,
      preset: given(flags.preset),
      layers: given(flags.layers),
      dtype: flags.dtype,
      quantize: flags.quantize,
      workloads,
      sizes: {
        batch: given(flags.batch),
        sequence: given(flags.sequence),
        prompt: given(flags.prompt),
        steps: given(flags.steps),
        rank: given(flags.rank),
        checkpointing: flags.checkpointing
      },
      rounds: flags.rounds,
      trace: given(flags.trace),
      out: given(flags.out)
    }).pipe(Effect.provide(gpuLayerFromFlags), Effect.scoped)
  })
).pipe(
  Command.withDescription("Show where the time goes on this device: each kernel of training, scoring and generation"),
  Command.withExamples([
    { command: "npm run srcode -- bench", description: "The embedded model" },
    {
      command: "npm run srcode -- bench --preset qwen2.5-coder-7b --only sft --trace sft.json",
      description: "A training step of a large shape, without its download, with a trace"
    },
    {
      command: "npm run srcode -- bench --preset qwen2.5-coder-7b --only decode --batch 64",
      description: "32 decode steps of 64 sequences"
    }
  ])
)
