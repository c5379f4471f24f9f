/** `srcode bench`: profiles a model on this device and writes the figures, and a trace where asked for. */
import { type AdapterInfo, Gpu, planMemory, requireMemory } from "@srcode/gpu"
import {
  allocWeights,
  type Decoder,
  type DtypeChoice,
  loadModel,
  locateModel,
  type ModelConfig,
  ModelError,
  modelPresets,
  type Precision,
  type Quantization,
  rowLimit,
  tinyCoderDirectory
} from "@srcode/model"
import { Console, Effect, FileSystem, Path } from "effect"
import { deviceSlug, environment } from "../environment.ts"
import { measureCeilings } from "./ceilings.ts"
import { profileWorkload, renderCeilings, renderProfile, type WorkloadProfile } from "./profile.ts"
import { makeRandomDecoder } from "./randomModel.ts"
import { writeTrace } from "./traceFile.ts"
import type { Sizes, WorkloadName } from "./workloads.ts"

export interface ModelChoice {
  /** A folder or a name in the cache; the embedded model without one and without a preset. */
  readonly model?: string | undefined
  /** A shape to fill with random weights, with fewer layers where `layers` says so. */
  readonly preset?: string | undefined
  readonly layers?: number | undefined
  readonly dtype: DtypeChoice
  readonly quantize: Quantization
}

export interface ProfileOptions extends ModelChoice {
  readonly workloads: ReadonlyArray<WorkloadName>
  /** What is not given follows from the model; see `sizesOf`. */
  readonly sizes: { readonly [K in keyof Sizes]?: Sizes[K] | undefined }
  readonly rounds: number
  readonly trace?: string | undefined
  readonly out?: string | undefined
}

/** Small for the embedded model, what a training run on a GPU would use for larger ones. */
export const sizesOf = (config: ModelConfig, given: ProfileOptions["sizes"]): Sizes => {
  const small = config.hiddenSize < 512
  return {
    batch: given.batch ?? (small ? 8 : 2),
    sequence: given.sequence ?? (small ? 110 : 2048),
    prompt: given.prompt ?? (small ? 40 : 256),
    steps: given.steps ?? 32,
    rank: given.rank ?? 8,
    checkpointing: given.checkpointing ?? "none"
  }
}

const invalid = (message: string) => ModelError.invalid({ operation: "bench", message })

/** The config of a preset with fewer layers, or why not. */
export const presetConfig = (name: string, layers: number | undefined) => {
  const base = modelPresets[name]
  if (base === undefined)
    return Effect.fail(invalid(`there is no preset "${name}"; choose one of ${Object.keys(modelPresets).join(", ")}`))
  return Effect.succeed<ModelConfig>({ ...base, numLayers: Math.min(base.numLayers, layers ?? base.numLayers) })
}

/** Random weights are held as a checkpoint of 16 bits would be. */
export const randomPrecision = ({ features, matmul }: AdapterInfo, choice: ModelChoice): Precision => {
  const table = choice.dtype === "auto" ? (features.includes("shader-f16") ? "f16" : "f32") : choice.dtype
  const plain = table === "f16" ? (matmul?.weights16 ?? "f16") : table
  return { table, linear: choice.quantize === "none" ? plain : choice.quantize }
}

export interface Opened {
  readonly name: string
  readonly decoder: Decoder
  readonly precision: Precision
}

/** Loads or makes the model; it lives in the caller's Scope. */
export const openForBench = Effect.fn("bench.openModel")(function* (choice: ModelChoice, positions: number) {
  const gpu = yield* Gpu
  if (choice.preset !== undefined) {
    const config = yield* presetConfig(choice.preset, choice.layers)
    const precision = randomPrecision(gpu.info, choice)
    const plan = yield* planMemory((section) => section("weights", allocWeights(config, precision)))
    yield* requireMemory(`the weights of ${choice.preset}`, plan)
    const limit = Math.min(positions, config.maxPositionEmbeddings)
    const opened: Opened = {
      name: choice.preset,
      precision,
      decoder: yield* makeRandomDecoder(config, precision, limit)
    }
    return opened
  }
  const directory = choice.model === undefined ? tinyCoderDirectory : yield* locateModel(choice.model)
  const { dtype, quantize } = choice
  const { decoder, precision } = yield* loadModel(directory, { dtype, quantize, maxTokens: positions })
  const path = yield* Path.Path
  const opened: Opened = { name: path.basename(directory), precision, decoder }
  return opened
})

/** What of the sizes the model and the device cannot do, as one line. */
const problemOf = (
  decoder: Decoder,
  sizes: Sizes,
  names: ReadonlyArray<WorkloadName>,
  rows: number
): string | undefined => {
  const whole = names.includes("sft") || names.includes("logprob")
  const generated = names.includes("prefill") || names.includes("decode")
  const { positions } = decoder.rope
  const longest = Math.max(whole ? sizes.sequence : 0, generated ? sizes.prompt + sizes.steps + 1 : 0)
  if (longest > positions) return `sequences of ${longest} tokens exceed the model's ${positions}; shorten them`
  const widest = whole ? sizes.batch * sizes.sequence : 0
  if (widest > rows)
    return `${widest} tokens at once exceed the ${rows} that a buffer of this device holds; lower --batch or --sequence`
  return undefined
}

/** Adds the path's name to a file's before its extension: trace.json → trace-sft.json. */
const tracePath = (file: string, name: string, only: boolean): string =>
  only ? file : file.replace(/(\.[^./]*)?$/, (extension) => `-${name}${extension}`)

/** Profiles the chosen work one after the other, prints tables, writes the result; returns its path. */
export const profileModel = Effect.fn("bench.profile")(function* (options: ProfileOptions) {
  const gpu = yield* Gpu
  const fs = yield* FileSystem.FileSystem
  const path = yield* Path.Path
  const { info } = gpu
  yield* Console.log(`device: ${info.name} (${info.backend}${info.software ? ", software" : ""})`)
  const ceilings = yield* measureCeilings()
  yield* Console.log(renderCeilings(ceilings))
  const { decoder, name, precision } = yield* openForBench(options, 4096)
  const sizes = sizesOf(decoder.config, options.sizes)
  const problem = problemOf(decoder, sizes, options.workloads, rowLimit(decoder.config, info))
  if (problem !== undefined) return yield* invalid(problem)
  const profiles: Array<WorkloadProfile> = []
  for (const workload of options.workloads) {
    const { profile, recording } = yield* profileWorkload(workload, decoder, sizes, {
      rounds: options.rounds,
      ceilings
    })
    profiles.push(profile)
    for (const line of renderProfile(profile)) yield* Console.log(line)
    if (options.trace !== undefined) {
      const file = tracePath(options.trace, workload, options.workloads.length === 1)
      yield* writeTrace(file, recording)
      yield* Console.log(`  trace written to ${file}`)
    }
  }
  const result = {
    ...(yield* environment),
    model: { name, layers: decoder.config.numLayers, random: options.preset !== undefined, precision },
    sizes,
    timestamps: info.features.includes("timestamp-query"),
    ceilings,
    profiles
  }
  const folder = path.join(import.meta.dirname, "..", "..", "results")
  const out = options.out ?? path.join(folder, `profile-${name}-${deviceSlug(info)}.json`)
  yield* fs.makeDirectory(path.dirname(out), { recursive: true })
  yield* fs.writeFileString(out, `${JSON.stringify(result, null, 2)}\n`)
  yield* Console.log(`written to ${out}`)
  return out
}, Effect.scoped)
