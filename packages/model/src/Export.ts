/**
 * Models and adapters as folders for other programs: a merged model in Hugging Face's layout, and an adapter in PEFT's.
 *
 * Merging is W' = W + Σ scale · B A in f64, rounded once to the stored dtype, row piece by row piece on the host: no
 * device is needed and memory holds one piece and one pair of each adapter, whatever the size of the model. Tensors that
 * no adapter touches are copied byte for byte. The folder appears whole or not at all (internal/staging.ts).
 */
import { Effect, type FileSystem } from "effect"
import { type LinearModule, linearModules, loadConfig, type ModelConfig, moduleBlock, tensorShapes } from "./Config.ts"
import { firstNotFinite, fromDoubles, isFloat, makeScratch, type Scratch, toDoubles } from "./internal/cast.ts"
import { addProduct, copyCompanions, requireSpace, weightFiles } from "./internal/export.ts"
import { type Emit, writeTextAtomic } from "./internal/files.ts"
import { encodeLoraSettings } from "./internal/peft-config.ts"
import { adapterConfigName, adapterWeightsName } from "./internal/peft-names.ts"
import type { Dtype, TensorInfo } from "./internal/safetensors-header.ts"
import { bytesOf, byWidthAndName } from "./internal/safetensors-layout.ts"
import { stageDirectory } from "./internal/staging.ts"
import { ModelError, quote } from "./ModelError.ts"
import { checkModelTensors, openModelWeights } from "./ModelWeights.ts"
import { type AdapterFile, openAdapter } from "./Peft.ts"
import type { SafetensorsFile } from "./Safetensors.ts"
import {
  planShards,
  type Shard,
  type StreamedTensor,
  writeSafetensorsStream,
  writeShards
} from "./SafetensorsStream.ts"
import type { StoredDtype } from "./SafetensorsWriter.ts"

export interface ExportMergedOptions {
  /** Model folder. */
  readonly model: string
  /** Adapter folders; their products add up, in any order. */
  readonly adapters: ReadonlyArray<string>
  readonly out: string
  /** How floats are stored (default `auto`: each tensor as in the base). */
  readonly dtype?: "auto" | StoredDtype
  /** Bytes of tensors a file may hold (default: the base's own files). */
  readonly shardBytes?: number
  readonly overwrite?: boolean
  readonly onProgress?: (doneBytes: number, totalBytes: number) => Effect.Effect<void>
}

export interface Exported {
  readonly files: ReadonlyArray<string>
  /** Bytes of tensors written. */
  readonly totalBytes: number
  /** Tensors changed by an adapter, and all. */
  readonly merged: number
  readonly tensors: number
}

const operation = "export"
/** Elements worked on at once, or a row where that is longer: 2 MiB of doubles. */
const pieceElements = 2 ** 18

/** Writes base and adapters as one model that loads without knowing of adapters. */
export const exportMerged = Effect.fn("Export.merged")(function* (
  options: ExportMergedOptions
): Effect.fn.Return<Exported, ModelError, FileSystem.FileSystem> {
  const { dtype = "auto", model, out, overwrite = false } = options
  if (options.shardBytes !== undefined && !(options.shardBytes > 0)) {
    return yield* ModelError.invalid({
      operation,
      message: `${operation}: a shard size of ${options.shardBytes} bytes is not positive`
    })
  }
  const work = Effect.gen(function* () {
    const config = yield* loadConfig(model)
    const base = yield* openModelWeights(model)
    yield* checkModelTensors(config, base)
    const adapters = yield* Effect.forEach(options.adapters, (directory) => openAdapter(directory, config))
    const targets = linearTensors(config)
    const touching = (name: string) => {
      const target = targets.get(name)
      return target === undefined ? [] : adapters.filter((adapter) => adapter.targetModules.includes(target.module))
    }
    const stream = (info: TensorInfo): StreamedTensor => {
      const { name, shape } = info
      const stored = dtype === "auto" || !isFloat(info.dtype) ? info.dtype : dtype
      const target = targets.get(name)
      const changing = touching(name)
      if (target !== undefined && changing.length > 0) {
        return { name, shape, dtype: stored, produce: merge(base, info, stored, changing, target) }
      }
      return {
        name,
        shape,
        dtype: stored,
        produce: stored === info.dtype ? copy(base, info) : cast(base, info, stored)
      }
    }
    const shards = yield* divideLikeBase(config, base, stream, options.shardBytes)
    const tensors = shards.flatMap((shard) => shard.tensors)
    const total = tensors.reduce((sum, tensor) => sum + bytesOf(tensor), 0)
    let done = 0
    const onBytes = Effect.fnUntraced(function* (bytes: number) {
      done += bytes
      if (options.onProgress !== undefined) yield* options.onProgress(done, total)
    })
    const sources = [model, ...options.adapters]
    const written = yield* stageDirectory({ operation, out, overwrite, marker: "config.json", sources }, (staging) =>
      Effect.gen(function* () {
        yield* requireSpace(operation, staging, total)
        yield* copyCompanions(operation, model, staging, dtype)
        return yield* writeShards(staging, shards, { onBytes })
      })
    )
    const merged = tensors.filter((tensor) => touching(tensor.name).length > 0).length
    return { ...written, merged, tensors: tensors.length }
  })
  return yield* Effect.scoped(work)
})

interface Target {
  readonly layer: number
  readonly module: LinearModule
}

/** The tensors that an adapter can change. */
const linearTensors = (config: ModelConfig): ReadonlyMap<string, Target> => {
  const targets = new Map<string, Target>()
  for (let layer = 0; layer < config.numLayers; layer++) {
    for (const module of linearModules) {
      targets.set(`model.layers.${layer}.${moduleBlock(module)}.${module}.weight`, { layer, module })
    }
  }
  return targets
}

/** The base's own files with their tensors in file order; with a size, files filled in the model's order. */
const divideLikeBase = Effect.fnUntraced(function* (
  config: ModelConfig,
  base: SafetensorsFile,
  stream: (info: TensorInfo) => StreamedTensor,
  shardBytes: number | undefined
) {
  if (shardBytes !== undefined) {
    const first = [...tensorShapes(config).keys()]
    const names = new Set([...first, ...[...base.tensors.keys()].sort()])
    const infos = [...names].flatMap((name) => base.tensors.get(name) ?? [])
    return planShards(infos.map(stream), shardBytes)
  }
  const files = yield* weightFiles(operation, base)
  return [...files].map(([file, infos]): Shard<StreamedTensor> => ({ file, tensors: infos.map(stream).sort(byWidth) }))
})

/** As `byWidthAndName`, but tensors of one width stay in the order they had. */
const byWidth = (a: StreamedTensor, b: StreamedTensor): number => byWidthAndName({ ...a, name: "" }, { ...b, name: "" })

type Produce = StreamedTensor["produce"]

/** Pieces of whole rows: `[first element, elements]`. */
const pieces = (elements: number, width: number): ReadonlyArray<readonly [number, number]> => {
  const step = Math.max(1, Math.floor(pieceElements / Math.max(1, width))) * Math.max(1, width)
  return Array.from({ length: Math.ceil(elements / step) }, (_, i) => [i * step, Math.min(step, elements - i * step)])
}

const copy =
  (base: SafetensorsFile, info: TensorInfo): Produce =>
  (emit) =>
    Effect.forEach(
      pieces(info.elements, 1),
      ([first, count]) => Effect.flatMap(base.readRaw(info.name, first, count), emit),
      { discard: true }
    )

const cast = (base: SafetensorsFile, info: TensorInfo, stored: Dtype): Produce =>
  Effect.fnUntraced(function* (emit) {
    const scratch = makeScratch(Math.min(pieceElements, info.elements))
    for (const [first, count] of pieces(info.elements, 1)) {
      const values = yield* readDoubles(base, info, first, count, scratch)
      yield* emitAs(emit, info, stored, values, first, scratch)
    }
  })

const merge = (
  base: SafetensorsFile,
  info: TensorInfo,
  stored: Dtype,
  adapters: ReadonlyArray<AdapterFile>,
  { layer, module }: Target
): Produce =>
  Effect.fnUntraced(function* (emit) {
    const width = info.shape[1] ?? 1
    const pairs = yield* Effect.forEach(adapters, (adapter) => adapter.readPair(layer, module))
    const scratch = makeScratch(Math.min(Math.max(pieceElements, width), info.elements))
    for (const [first, count] of pieces(info.elements, width)) {
      const values = yield* readDoubles(base, info, first, count, scratch)
      for (const [i, adapter] of adapters.entries()) {
        const pair = pairs[i]
        if (pair !== undefined) addProduct(values, width, first / width, pair, adapter.rank, adapter.scale)
      }
      yield* emitAs(emit, info, stored, values, first, scratch)
    }
  })

const readDoubles = Effect.fnUntraced(function* (
  base: SafetensorsFile,
  info: TensorInfo,
  first: number,
  count: number,
  scratch: Scratch
) {
  const { dtype, name } = info
  if (!isFloat(dtype)) {
    return yield* ModelError.unsupported({
      operation,
      file: base.path,
      tensor: name,
      option: dtype,
      message: `${base.path}: tensor ${quote(name)} is ${dtype}, which an adapter cannot be added to; give a base in F32, F16 or BF16`
    })
  }
  return toDoubles(dtype, yield* base.readRaw(name, first, count), scratch)
})

const emitAs = Effect.fnUntraced(function* (
  emit: Emit,
  info: TensorInfo,
  stored: Dtype,
  values: Float64Array,
  first: number,
  scratch: Scratch
) {
  if (!isFloat(stored)) return
  const bad = firstNotFinite(stored, values)
  if (bad >= 0) {
    return yield* ModelError.notFinite({
      operation,
      tensor: info.name,
      index: first + bad,
      message: `${operation}: tensor ${quote(info.name)} would hold ${values[bad]} at index ${first + bad}, which ${stored} cannot store; check the weights or store them in a wider --dtype`
    })
  }
  yield* emit(fromDoubles(stored, values, scratch))
})

export interface ExportPeftOptions {
  /** The base model's folder: layers and shapes are checked against it. */
  readonly model: string
  readonly adapter: string
  readonly out: string
  readonly dtype?: "auto" | StoredDtype
  /** What to write as `base_model_name_or_path` (default: the adapter's own, else `model`). */
  readonly baseName?: string
  /** Store rank-stabilised scaling as a plain alpha (α√r), for programs that only know alpha / rank. */
  readonly plainAlpha?: boolean
  readonly overwrite?: boolean
}

/** Writes an adapter folder in the form that PEFT and vLLM load: target modules listed, plain names, nothing else inside. */
export const exportPeft = Effect.fn("Export.peft")(function* (
  options: ExportPeftOptions
): Effect.fn.Return<Exported, ModelError, FileSystem.FileSystem> {
  const { dtype = "auto", model, out, overwrite = false, plainAlpha = false } = options
  const work = Effect.gen(function* () {
    const adapter = yield* openAdapter(options.adapter, yield* loadConfig(model))
    const { weights } = adapter
    const tensors = [...weights.tensors.values()]
      .map((info): StreamedTensor => {
        const stored = dtype === "auto" || !isFloat(info.dtype) ? info.dtype : dtype
        const produce = stored === info.dtype ? copyFinite(weights, info) : cast(weights, info, stored)
        return { name: info.name, shape: info.shape, dtype: stored, produce }
      })
      .sort(byWidthAndName)
    const fold = plainAlpha && adapter.useRslora
    const text = encodeLoraSettings({
      rank: adapter.rank,
      alpha: fold ? adapter.alpha * Math.sqrt(adapter.rank) : adapter.alpha,
      useRslora: adapter.useRslora && !fold,
      targetModules: adapter.targetModules,
      baseModel: options.baseName ?? adapter.baseModel ?? model
    })
    const total = tensors.reduce((sum, tensor) => sum + bytesOf(tensor), 0)
    const sources = [model, options.adapter]
    yield* stageDirectory({ operation, out, overwrite, marker: adapterConfigName, sources }, (staging) =>
      Effect.gen(function* () {
        yield* requireSpace(operation, staging, total)
        yield* writeSafetensorsStream(`${staging}/${adapterWeightsName}`, tensors)
        yield* writeTextAtomic(operation, `${staging}/${adapterConfigName}`, text)
      })
    )
    return { files: [adapterWeightsName, adapterConfigName], totalBytes: total, merged: 0, tensors: tensors.length }
  })
  return yield* Effect.scoped(work)
})

/** The stored bytes, every number looked at. */
const copyFinite = (file: SafetensorsFile, info: TensorInfo): Produce => {
  const { dtype } = info
  return isFloat(dtype) ? cast(file, info, dtype) : copy(file, info)
}
