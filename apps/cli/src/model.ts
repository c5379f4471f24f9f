/**
 * How commands open a model: the flags they share, what a model argument means, and loading. The memory plan is printed
 * to stderr before a weight is read, and a plan that does not fit is refused with the missing bytes.
 */
import { describePlan, type Gpu, type GpuError, planFirst, requireMemory, type Section } from "@srcode/gpu"
import {
  allocDecoder,
  allocLora,
  type Decoder,
  type DtypeChoice,
  dtypeChoices,
  type Lora,
  loadCheckpoint,
  locateAdapter,
  locateModel,
  type Model,
  type ModelError,
  type OpenCheckpoint,
  openCheckpoint,
  parameterCount,
  type Quantization,
  quantizations,
  readAdapter,
  uploadLora
} from "@srcode/model"
import { report } from "@srcode/pipeline"
import { describePass, type PassShape, type PassShapes } from "@srcode/trainer"
import { Effect, Option, type Scope, Stdio, Stream } from "effect"
import { Flag } from "effect/cli"
import { fileFlag } from "./root.ts"

export const modelFlag = fileFlag(
  "model",
  "Model folder in Hugging Face layout, or ORG/NAME[@REVISION] in the local cache (required)",
  "MODEL"
)
export const adapterFlag = fileFlag(
  "adapter",
  "PEFT adapter to apply: a folder, or ORG/NAME[@REVISION] in the local cache",
  "DIR"
).pipe(Flag.optional)

export const dtypeFlag = Flag.Literals("dtype", dtypeChoices).pipe(
  Flag.withDescription(
    "How weights are held: f32, f16, or auto, the default (as the checkpoint where the device can, never below an f32 checkpoint)"
  )
)

/** `--dtype` and `--quantize`. */
export const precisionFlags = {
  dtype: dtypeFlag.pipe(Flag.withDefault("auto" as const)),
  quantize: Flag.Literals("quantize", quantizations).pipe(
    Flag.withDescription("Hold the frozen linear layers in int8 (a scale a row) or int4 (blocks of 32); default none"),
    Flag.withDefault("none" as const)
  )
}

/** `--model`, `--dtype` and `--quantize`. */
export const modelFlags = { model: modelFlag, ...precisionFlags }

export interface ModelChoice {
  readonly model: string
  readonly dtype: DtypeChoice
  readonly quantize: Quantization
}

/**
 * What a command will allocate beside weights and adapter; runs once to be counted, with a decoder that holds nothing.
 * `rank` is the adapter's, 0 without one; `pass` the shape of a training pass that is tried.
 */
export type AlsoNeeded = (
  decoder: Decoder,
  section: Section,
  rank: number,
  pass: PassShape
) => Effect.Effect<unknown, GpuError | ModelError, Gpu | Scope.Scope>

const toStderr = Effect.fnUntraced(function* (line: string) {
  const stdio = yield* Stdio.Stdio
  yield* Stream.run(Stream.make(`${line}\n`), stdio.stderr({ endOnDone: false })).pipe(Effect.ignore)
})

const count = (n: number): string =>
  n >= 1e9
    ? `${(n / 1e9).toFixed(2)} B`
    : n >= 1e6
      ? `${(n / 1e6).toFixed(n >= 1e8 ? 0 : 1)} M`
      : `${Math.round(n / 1e3)} k`

/** The line that comes before a weight is read. */
export const tellPlan = (name: string, { config, precision }: OpenCheckpoint, plan: string) => {
  const { linear, table } = precision
  const held =
    linear === table ? linear : linear === "f16_tiles" ? "f16 in tiles" : `${linear} (embedding and head ${table})`
  const parameters = count(parameterCount(config))
  return toStderr(`${name}: ${config.modelType}, ${parameters} parameters as ${held}; memory plan: ${plan}`)
}

export interface OpenedModel {
  readonly model: Model
  /** The adapter of the flag on the device; null without one. */
  readonly lora: Lora | null
  /** The first of `passes` that fits; null without any. */
  readonly pass: PassShape | null
}

/** Finds, plans, checks and loads the model of the flags. `also` names what the command needs beside the weights. */
export const openModel = Effect.fn("openModel")(function* (
  choice: ModelChoice,
  options: {
    readonly maxTokens?: number
    readonly adapter?: Option.Option<string>
    readonly also?: AlsoNeeded
    /** Shapes of a training pass to try, in order. */
    readonly passes?: PassShapes
  } = {}
) {
  const directory = yield* locateModel(choice.model)
  const { dtype, quantize } = choice
  const checkpoint = yield* openCheckpoint(directory, {
    dtype,
    quantize,
    ...(options.maxTokens === undefined ? {} : { maxTokens: options.maxTokens })
  })
  const given = Option.getOrNull(options.adapter ?? Option.none())
  const adapter = given === null ? null : yield* readAdapter(yield* locateAdapter(given), checkpoint.config)
  const passes: PassShapes = options.passes ?? [{ checkpointing: "none", capacity: 0 }]
  const { candidate, plan } = yield* planFirst(passes, (pass, section) =>
    Effect.gen(function* () {
      const { decoder } = yield* section("weights", allocDecoder(checkpoint))
      if (adapter !== null) yield* section("adapter", allocLora(checkpoint.config, adapter))
      if (options.also) yield* options.also(decoder, section, adapter?.rank ?? 0, pass)
    })
  )
  const pass = options.passes === undefined ? null : candidate
  yield* tellPlan(choice.model, checkpoint, `${describePlan(plan)}${pass === null ? "" : `; ${describePass(pass)}`}`)
  yield* requireMemory(`${choice.model} on this device`, plan)
  const scale = 1e6
  const model = yield* loadCheckpoint(checkpoint, (done, total) =>
    total < 64 * scale
      ? Effect.void
      : report({ stage: "load", step: Math.round(done / scale), total: Math.round(total / scale), unit: "MB" })
  )
  const opened: OpenedModel = { model, lora: adapter === null ? null : yield* uploadLora(model.config, adapter), pass }
  return opened
})
