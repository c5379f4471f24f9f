/**
 * LoRA adapters as PEFT folders: `adapter_config.json` and `adapter_model.safetensors`.
 *
 * Shapes: A `[r, in]`, B `[out, r]`; y += scale · B(A(x)) with scale = alpha / r, or alpha / √r with rank-stabilised
 * LoRA. In memory a pair is keyed `layers.{i}.{module}`. One rank and one alpha for the whole adapter; what PEFT can
 * store beyond that (DoRA, rank patterns, trained heads, ...) is a named error, since ignoring it would serve another
 * model than the one that was trained.
 */
import { Effect, FileSystem } from "effect"
import { type LinearModule, linearModules, linearShapes, type ModelConfig, moduleBlock } from "./Config.ts"
import {
  exists,
  ioError,
  makeDirectory,
  readJsonObject,
  readText,
  syncDirectory,
  writeTextAtomic
} from "./internal/files.ts"
import { decodeLoraSettings, encodeLoraSettings } from "./internal/peft-config.ts"
import { ModelError, quote } from "./ModelError.ts"
import { openSafetensors, requireFinite, requireShape, type SafetensorsFile } from "./Safetensors.ts"
import { type StoredDtype, type TensorToWrite, writeSafetensors } from "./SafetensorsWriter.ts"

export interface LoraPair {
  /** `[rank, in]` */
  readonly a: Float32Array
  /** `[out, rank]` */
  readonly b: Float32Array
}

export type LoraKey = `layers.${number}.${LinearModule}`

export interface Adapter {
  readonly rank: number
  readonly alpha: number
  readonly useRslora: boolean
  /** What the product B(A(x)) is multiplied with. */
  readonly scale: number
  /** In the order of `linearModules`. */
  readonly targetModules: ReadonlyArray<LinearModule>
  readonly baseModel: string | null
  readonly tensors: ReadonlyMap<LoraKey, LoraPair>
}

export const loraScale = (rank: number, alpha: number, useRslora: boolean): number =>
  alpha / (useRslora ? Math.sqrt(rank) : rank)

export const loraKey = (layer: number, module: LinearModule): LoraKey => `layers.${layer}.${module}`

const configName = "adapter_config.json"
const weightsName = "adapter_model.safetensors"
const namePattern =
  /^base_model\.model\.model\.layers\.(0|[1-9]\d{0,5})\.(self_attn|mlp)\.([a-z]+_proj)\.lora_([AB])\.weight$/

interface Slot {
  readonly layer: number
  readonly module: LinearModule
  readonly half: "A" | "B"
  readonly name: string
}

const slotName = (layer: number, module: LinearModule, half: "A" | "B"): string =>
  `base_model.model.model.layers.${layer}.${moduleBlock(module)}.${module}.lora_${half}.weight`

const parseSlot = (name: string): Slot | undefined => {
  const match = namePattern.exec(name)
  if (match === null) return undefined
  const module = linearModules.find((candidate) => candidate === match[3])
  const half = match[4] === "A" ? "A" : "B"
  if (module === undefined || moduleBlock(module) !== match[2]) return undefined
  return { layer: Number(match[1]), module, half, name }
}

/**
 * Reads an adapter folder. With a `config` the layers and the in and out sizes are checked against the base model;
 * without one they are checked against each other. Every target module must be there in every layer, both halves.
 */
export const readAdapter = Effect.fn("Peft.read")(function* (
  directory: string,
  config?: ModelConfig
): Effect.fn.Return<Adapter, ModelError, FileSystem.FileSystem> {
  const operation = "read adapter"
  const configFile = `${directory}/${configName}`
  const weightsFile = `${directory}/${weightsName}`
  const settings = yield* readJsonObject(operation, configFile).pipe(
    Effect.flatMap((raw) => decodeLoraSettings(configFile, raw))
  )
  return yield* Effect.scoped(
    Effect.gen(function* () {
      const file = yield* openSafetensors(weightsFile)
      const slots = yield* collectSlots(file)
      const found = linearModules.filter((module) => slots.some((slot) => slot.module === module))
      const targetModules =
        settings.targetModules.length === 0
          ? found
          : linearModules.filter((module) => settings.targetModules.includes(module))
      const stray = slots.find((slot) => !targetModules.includes(slot.module))
      if (stray !== undefined) {
        return yield* ModelError.malformed({
          operation,
          file: weightsFile,
          tensor: stray.name,
          message: `${weightsFile}: tensor ${quote(stray.name)} belongs to ${stray.module}, which target_modules of ${configName} does not list; write the adapter again`
        })
      }
      const numLayers = config?.numLayers ?? slots.reduce((most, slot) => Math.max(most, slot.layer + 1), 0)
      const beyond = slots.find((slot) => slot.layer >= numLayers)
      if (beyond !== undefined) {
        return yield* ModelError.malformed({
          operation,
          file: weightsFile,
          tensor: beyond.name,
          message: `${weightsFile}: tensor ${quote(beyond.name)} is for layer ${beyond.layer}, the base model has ${numLayers} layers; give the base model that the adapter was trained on`
        })
      }
      const shapes = config === undefined ? undefined : linearShapes(config)
      const tensors = new Map<LoraKey, LoraPair>()
      for (let layer = 0; layer < numLayers; layer++) {
        for (const module of targetModules) {
          const pair = yield* readPair(file, layer, module, settings.rank, shapes?.[module])
          tensors.set(loraKey(layer, module), pair)
        }
      }
      const { rank, alpha, useRslora, baseModel } = settings
      return { rank, alpha, useRslora, baseModel, scale: loraScale(rank, alpha, useRslora), targetModules, tensors }
    })
  )
})

/** Every tensor must be half of a known pair; others are named. */
const collectSlots = Effect.fnUntraced(function* (file: SafetensorsFile) {
  const slots: Array<Slot> = []
  for (const name of file.tensors.keys()) {
    const slot = parseSlot(name)
    if (slot === undefined) {
      const dora = name.includes("lora_magnitude_vector") ? " (a DoRA adapter)" : ""
      return yield* ModelError.unsupported({
        operation: "read adapter",
        file: file.path,
        tensor: name,
        option: name,
        message: `${file.path}: tensor ${quote(name)} is not a LoRA half of a linear layer${dora}; only attention and MLP projections can carry LoRA here`
      })
    }
    slots.push(slot)
  }
  if (slots.length === 0) {
    return yield* ModelError.missing({
      operation: "read adapter",
      file: file.path,
      message: `${file.path} holds no tensors; write the adapter again`
    })
  }
  return slots
})

const readPair = Effect.fnUntraced(function* (
  file: SafetensorsFile,
  layer: number,
  module: LinearModule,
  rank: number,
  shape: readonly [number, number] | undefined
) {
  const half = Effect.fnUntraced(function* (which: "A" | "B") {
    const name = slotName(layer, module, which)
    const info = file.tensors.get(name)
    if (info === undefined) {
      return yield* ModelError.missing({
        operation: "read adapter",
        file: file.path,
        tensor: name,
        message: `${file.path} lacks tensor ${quote(name)}; an adapter needs both halves for every target module in every layer`
      })
    }
    const free = info.shape[which === "A" ? 1 : 0] ?? 0
    const fixed = shape === undefined ? free : which === "A" ? shape[1] : shape[0]
    yield* requireShape("read adapter", info, which === "A" ? [rank, fixed] : [fixed, rank], file.path)
    const data = yield* file.read(name)
    yield* requireFinite("read adapter", name, data)
    return data
  })
  const pair: LoraPair = { a: yield* half("A"), b: yield* half("B") }
  return pair
})

export interface AdapterToWrite {
  readonly rank: number
  readonly alpha: number
  readonly useRslora?: boolean
  readonly targetModules: ReadonlyArray<LinearModule>
  readonly baseModel?: string | null
  readonly tensors: ReadonlyMap<LoraKey, LoraPair>
}

/**
 * Writes both files. They are made in a folder beside, complete and flushed, and only then renamed into place, so
 * nothing half-written is ever visible. When the settings change, the old `adapter_config.json` goes first: a kill
 * between the renames leaves a folder that says it is incomplete, never new weights under old settings. Other files of
 * the folder (a value head) are left alone. Data are checked before anything is touched.
 */
export const writeAdapter = Effect.fn("Peft.write")(function* (
  directory: string,
  config: ModelConfig,
  adapter: AdapterToWrite,
  dtype: StoredDtype = "F32"
): Effect.fn.Return<void, ModelError, FileSystem.FileSystem> {
  const operation = "write adapter"
  const fs = yield* FileSystem.FileSystem
  const failed = Effect.mapError(ioError(operation, directory))
  const tensors = yield* tensorsOf(config, adapter)
  const text = encodeLoraSettings({
    rank: adapter.rank,
    alpha: adapter.alpha,
    useRslora: adapter.useRslora ?? false,
    targetModules: adapter.targetModules,
    baseModel: adapter.baseModel ?? null
  })
  const staging = `${directory}/.adapter.tmp`
  yield* makeDirectory(operation, directory)
  yield* Effect.gen(function* () {
    yield* fs.remove(staging, { recursive: true, force: true }).pipe(failed)
    yield* makeDirectory(operation, staging)
    yield* writeSafetensors(`${staging}/${weightsName}`, tensors, { dtype })
    yield* writeTextAtomic(operation, `${staging}/${configName}`, text)
    const configFile = `${directory}/${configName}`
    const same = (yield* exists(operation, configFile)) && (yield* readText(operation, configFile)) === text
    yield* Effect.uninterruptible(
      Effect.gen(function* () {
        if (!same) {
          yield* fs.remove(configFile, { force: true }).pipe(failed)
          yield* syncDirectory(directory)
        }
        yield* fs.rename(`${staging}/${weightsName}`, `${directory}/${weightsName}`).pipe(failed)
        if (!same) {
          yield* syncDirectory(directory)
          yield* fs.rename(`${staging}/${configName}`, configFile).pipe(failed)
        }
        yield* syncDirectory(directory)
      })
    )
  }).pipe(Effect.ensuring(Effect.ignore(fs.remove(staging, { recursive: true, force: true }))))
})

const tensorsOf = Effect.fnUntraced(function* (config: ModelConfig, adapter: AdapterToWrite) {
  const operation = "write adapter"
  const invalid = (message: string) => ModelError.invalid({ operation, message: `${operation}: ${message}` })
  if (!Number.isInteger(adapter.rank) || adapter.rank < 1)
    return yield* invalid(`the rank ${adapter.rank} is not a count`)
  if (!Number.isFinite(adapter.alpha)) return yield* invalid(`alpha ${adapter.alpha} is not a number`)
  if (adapter.targetModules.length === 0) return yield* invalid("there are no target modules")
  const shapes = linearShapes(config)
  const tensors: Array<TensorToWrite> = []
  for (let layer = 0; layer < config.numLayers; layer++) {
    for (const module of new Set(adapter.targetModules)) {
      const pair = adapter.tensors.get(loraKey(layer, module))
      if (pair === undefined) return yield* invalid(`the pair ${loraKey(layer, module)} is missing`)
      const [out, input] = shapes[module]
      tensors.push({ name: slotName(layer, module, "A"), shape: [adapter.rank, input], data: pair.a })
      tensors.push({ name: slotName(layer, module, "B"), shape: [out, adapter.rank], data: pair.b })
    }
  }
  if (tensors.length !== 2 * adapter.tensors.size) {
    return yield* invalid(
      `${adapter.tensors.size} pairs were given, ${tensors.length / 2} belong to the target modules`
    )
  }
  for (const { name, shape, data } of tensors) {
    if (shape.reduce((product, size) => product * size, 1) !== data.length) {
      return yield* ModelError.shape({ operation, tensor: name, expected: shape, actual: [data.length] })
    }
    yield* requireFinite(operation, name, data)
  }
  return tensors
})
