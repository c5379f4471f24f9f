/**
 * LoRA adapters as PEFT folders: `adapter_config.json` and `adapter_model.safetensors`.
 *
 * Shapes: A `[r, in]`, B `[out, r]`; y += scale · B(A(x)) with scale = alpha / r, or alpha / √r with rank-stabilised
 * LoRA. In memory a pair is keyed `layers.{i}.{module}`. One rank and one alpha for the whole adapter; what PEFT can
 * store beyond that (DoRA, rank patterns, trained heads, ...) is a named error, since ignoring it would serve another
 * model than the one that was trained.
 */
import { Effect, FileSystem, type Scope } from "effect"
import { type LinearModule, linearModules, linearShapes, type ModelConfig } from "./Config.ts"
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
import { adapterConfigName, adapterWeightsName, parseSlot, type Slot, slotName } from "./internal/peft-names.ts"
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

/** An adapter folder, checked but for its numbers, which are read pair by pair while the Scope is open. */
export interface AdapterFile extends Omit<Adapter, "tensors"> {
  readonly directory: string
  readonly numLayers: number
  /** The tensors as they are stored. */
  readonly weights: SafetensorsFile
  /** Both halves as f32, every number checked. The module must be one of `targetModules`. */
  readonly readPair: (layer: number, module: LinearModule) => Effect.Effect<LoraPair, ModelError>
}

/** Name → shape of every tensor of an adapter: A `[rank, in]` and B `[out, rank]` of each module in each layer. */
export const adapterShapes = (
  config: ModelConfig,
  rank: number,
  modules: Iterable<LinearModule> = linearModules
): ReadonlyMap<string, ReadonlyArray<number>> => {
  const linear = linearShapes(config)
  const shapes = new Map<string, ReadonlyArray<number>>()
  for (let layer = 0; layer < config.numLayers; layer++) {
    for (const module of new Set(modules)) {
      const [out, input] = linear[module]
      shapes.set(slotName(layer, module, "A"), [rank, input])
      shapes.set(slotName(layer, module, "B"), [out, rank])
    }
  }
  return shapes
}

/**
 * Opens an adapter folder. With a `config` the layers and the in and out sizes are checked against the base model;
 * without one they are checked against each other. Every target module must be there in every layer, both halves.
 */
export const openAdapter = Effect.fn("Peft.open")(function* (
  directory: string,
  config?: ModelConfig
): Effect.fn.Return<AdapterFile, ModelError, FileSystem.FileSystem | Scope.Scope> {
  const operation = "read adapter"
  const configFile = `${directory}/${adapterConfigName}`
  const weightsFile = `${directory}/${adapterWeightsName}`
  const settings = yield* readJsonObject(operation, configFile).pipe(
    Effect.flatMap((raw) => decodeLoraSettings(configFile, raw))
  )
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
      message: `${weightsFile}: tensor ${quote(stray.name)} belongs to ${stray.module}, which target_modules of ${adapterConfigName} does not list; write the adapter again`
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
  for (let layer = 0; layer < numLayers; layer++) {
    for (const module of targetModules) yield* checkPair(file, layer, module, settings.rank, shapes?.[module])
  }
  const { rank, alpha, useRslora, baseModel } = settings
  const scale = loraScale(rank, alpha, useRslora)
  const half = Effect.fnUntraced(function* (layer: number, module: LinearModule, which: "A" | "B") {
    const name = slotName(layer, module, which)
    const data = yield* file.read(name)
    yield* requireFinite(operation, name, data)
    return data
  })
  const readPair = Effect.fnUntraced(function* (layer: number, module: LinearModule) {
    const pair: LoraPair = { a: yield* half(layer, module, "A"), b: yield* half(layer, module, "B") }
    return pair
  })
  return { directory, numLayers, weights: file, rank, alpha, useRslora, baseModel, scale, targetModules, readPair }
})

/** Reads an adapter folder whole, checked as `openAdapter` does. */
export const readAdapter = Effect.fn("Peft.read")(function* (
  directory: string,
  config?: ModelConfig
): Effect.fn.Return<Adapter, ModelError, FileSystem.FileSystem> {
  return yield* Effect.scoped(
    Effect.gen(function* () {
      const { rank, alpha, useRslora, baseModel, scale, targetModules, numLayers, readPair } = yield* openAdapter(
        directory,
        config
      )
      const tensors = new Map<LoraKey, LoraPair>()
      for (let layer = 0; layer < numLayers; layer++) {
        for (const module of targetModules) tensors.set(loraKey(layer, module), yield* readPair(layer, module))
      }
      return { rank, alpha, useRslora, baseModel, scale, targetModules, tensors }
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

/** Both halves are there and have the shapes that the rank and the base model (or one another) ask for. */
const checkPair = Effect.fnUntraced(function* (
  file: SafetensorsFile,
  layer: number,
  module: LinearModule,
  rank: number,
  shape: readonly [number, number] | undefined
) {
  for (const which of ["A", "B"] as const) {
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
  }
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
    yield* writeSafetensors(`${staging}/${adapterWeightsName}`, tensors, { dtype })
    yield* writeTextAtomic(operation, `${staging}/${adapterConfigName}`, text)
    const configFile = `${directory}/${adapterConfigName}`
    const same = (yield* exists(operation, configFile)) && (yield* readText(operation, configFile)) === text
    yield* Effect.uninterruptible(
      Effect.gen(function* () {
        if (!same) {
          yield* fs.remove(configFile, { force: true }).pipe(failed)
          yield* syncDirectory(directory)
        }
        yield* fs.rename(`${staging}/${adapterWeightsName}`, `${directory}/${adapterWeightsName}`).pipe(failed)
        if (!same) {
          yield* syncDirectory(directory)
          yield* fs.rename(`${staging}/${adapterConfigName}`, configFile).pipe(failed)
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
