/**
 * The weights of a model folder: one safetensors file, or several named by an index, behind one face; and the check that
 * they are the weights that `config.json` describes.
 *
 * Unusual: everything is checked before a byte of a tensor is read and before the device is asked for anything, and a
 * tensor that the model would not use is an error like one that it lacks: a config with fewer layers than the weights, or
 * biases that nobody adds, would compute something else than the model that was trained.
 */
import type { Scope } from "effect"
import { Effect, FileSystem } from "effect"
import { type ModelConfig, tensorShapes } from "./Config.ts"
import { duplicateKey } from "./internal/duplicate-key.ts"
import { exists, ioError, isRecord, parseJsonObject, readText } from "./internal/files.ts"
import { ModelError, quote } from "./ModelError.ts"
import { missingTensor, openSafetensors, requireShape, type SafetensorsFile, type TensorInfo } from "./Safetensors.ts"

const operation = "read safetensors"

/** Files of one model are open at once; real models have at most a few hundred. */
const maxShards = 1000

/**
 * Opens `model.safetensors` if it is there, else the files named by `model.safetensors.index.json`. Of those only tensors
 * that the index lists are visible; others, and a `total_size` that does not add up, are told in the log.
 */
export const openModelWeights = Effect.fn("ModelWeights.open")(function* (
  directory: string
): Effect.fn.Return<SafetensorsFile, ModelError, FileSystem.FileSystem | Scope.Scope> {
  const single = `${directory}/model.safetensors`
  if (yield* exists(operation, single)) return yield* openSafetensors(single)
  const indexFile = `${single}.index.json`
  if (!(yield* exists(operation, indexFile))) return yield* whatElse(directory)
  return yield* openShards(directory, indexFile)
})

const openShards = Effect.fnUntraced(function* (directory: string, indexFile: string) {
  const bad = (what: string) =>
    ModelError.malformed({ operation, file: indexFile, message: `${indexFile}: ${what}; fetch the file again` })
  const text = yield* readText(operation, indexFile)
  const index = yield* parseJsonObject(operation, indexFile, text)
  const twice = duplicateKey(text, 64)
  if (twice !== undefined) return yield* bad(twice)
  const weightMap = index.weight_map
  if (!isRecord(weightMap)) return yield* bad("weight_map is not an object")
  const listed = Object.entries(weightMap)
  if (listed.length === 0) return yield* bad("weight_map is empty")

  const parts = new Map<string, SafetensorsFile>()
  const owner = new Map<string, SafetensorsFile>()
  const tensors = new Map<string, TensorInfo>()
  for (const [name, fileName] of listed) {
    if (typeof fileName !== "string" || !/^[\w-][\w.-]*\.safetensors$/.test(fileName)) {
      return yield* bad(
        `tensor ${quote(name)} points at ${quote(String(JSON.stringify(fileName)))}, not at a .safetensors file beside it`
      )
    }
    const part = parts.get(fileName) ?? (yield* openSafetensors(`${directory}/${fileName}`))
    parts.set(fileName, part)
    if (parts.size > maxShards) return yield* bad(`it names more than ${maxShards} files`)
    const info = part.tensors.get(name)
    if (info === undefined) return yield* missingTensor(part.path, name, part.tensors)
    owner.set(name, part)
    tensors.set(name, info)
  }
  yield* warnOfOddIndex(indexFile, index.metadata, parts, owner)

  const via = <A>(
    name: string,
    f: (file: SafetensorsFile) => Effect.Effect<A, ModelError>
  ): Effect.Effect<A, ModelError> => {
    const file = owner.get(name)
    return file === undefined ? Effect.fail(missingTensor(indexFile, name, tensors)) : f(file)
  }
  const model: SafetensorsFile = {
    path: indexFile,
    metadata: new Map(),
    tensors,
    read: (name) => via(name, (file) => file.read(name)),
    readRows: (name, from, to) => via(name, (file) => file.readRows(name, from, to)),
    readShape: (name, shape) => via(name, (file) => file.readShape(name, shape)),
    readBytes: (name) => via(name, (file) => file.readBytes(name)),
    readRaw: (name, first, count) => via(name, (file) => file.readRaw(name, first, count))
  }
  return model
})

/** What makes an index look stale without making the weights wrong. */
const warnOfOddIndex = Effect.fnUntraced(function* (
  indexFile: string,
  metadata: unknown,
  parts: ReadonlyMap<string, SafetensorsFile>,
  owner: ReadonlyMap<string, SafetensorsFile>
) {
  const unlisted = [...parts].flatMap(([fileName, part]) =>
    [...part.tensors.keys()].filter((name) => owner.get(name) !== part).map((name) => `${quote(name)} in ${fileName}`)
  )
  if (unlisted.length > 0) {
    const others = unlisted.length > 1 ? ` and ${unlisted.length - 1} more` : ""
    yield* Effect.logWarning(
      `${indexFile}: it does not list ${unlisted[0]}${others}; tensors that it does not list are not read`
    )
  }
  const claimed = isRecord(metadata) ? metadata.total_size : undefined
  let bytes = 0
  for (const [name, part] of owner) bytes += part.tensors.get(name)?.bytes ?? 0
  if (claimed !== undefined && claimed !== bytes) {
    yield* Effect.logWarning(
      `${indexFile}: total_size is ${quote(String(JSON.stringify(claimed)))}, the listed tensors have ${bytes} bytes`
    )
  }
})

/** Why a folder without safetensors is no model here, by what lies in it. */
const whatElse = Effect.fnUntraced(function* (directory: string) {
  const fs = yield* FileSystem.FileSystem
  const names = yield* fs.readDirectory(directory).pipe(Effect.mapError(ioError(operation, directory)))
  const find = (pattern: RegExp) => [...names].sort().find((name) => pattern.test(name))
  const missing = (message: string) =>
    ModelError.missing({ operation, file: `${directory}/model.safetensors`, message: `${directory} ${message}` })
  const pickle = find(/^(pytorch_model|consolidated).*\.(bin|pt|pth)$|\.(bin|pt|pth|ckpt)$/)
  const other = find(/\.safetensors$/)
  const foreign = find(/\.(gguf|ggml|h5|msgpack|onnx|npz)$/)
  if (find(/^adapter_config\.json$/) !== undefined) {
    return yield* missing(
      "is an adapter, not a model (it has adapter_config.json and no model.safetensors); give the base model's folder with --model and this one with --adapter"
    )
  }
  if (other !== undefined) {
    return yield* missing(
      `has ${other} but neither model.safetensors nor model.safetensors.index.json; rename a single file to model.safetensors, or fetch the index`
    )
  }
  if (pickle !== undefined) {
    return yield* missing(
      `has only PyTorch weights (${pickle}), which are Python programs and are not loaded here; convert them with safetensors (save_pretrained of transformers writes it) or take a revision that has model.safetensors`
    )
  }
  if (foreign !== undefined) {
    return yield* missing(
      `has only ${foreign}, a format that is not loaded here; take the model's repository with model.safetensors`
    )
  }
  return yield* missing(
    "holds neither model.safetensors nor model.safetensors.index.json; give a Hugging Face model folder"
  )
})

/** Stored beside the weights by some exporters and computed here instead: rotary frequencies. */
const computed = /\.rotary_emb\.inv_freq$/

const readable: ReadonlySet<string> = new Set(["F32", "F16", "BF16", "F64"])

/**
 * Fails unless the file holds every tensor that the configuration needs, in its shape and in a float format, and no
 * tensor that the model would leave out. Reads headers only, except where a tied model also stores its head: then the
 * two must be the same bytes.
 */
export const checkModelTensors = Effect.fn("ModelWeights.check")(function* (
  config: ModelConfig,
  file: SafetensorsFile
): Effect.fn.Return<void, ModelError> {
  const expected = tensorShapes(config)
  for (const [name, shape] of expected) {
    const info = file.tensors.get(name)
    if (info === undefined) return yield* missingTensor(file.path, name, file.tensors)
    yield* requireShape("load model", info, shape, file.path)
    if (!readable.has(info.dtype)) {
      return yield* ModelError.unsupported({
        operation: "load model",
        file: file.path,
        tensor: name,
        option: info.dtype,
        message: `${file.path}: tensor ${quote(name)} is ${info.dtype}; only float checkpoints (F32, F16, BF16) are loaded, take the model before it was quantised`
      })
    }
  }
  const surplus = [...file.tensors.keys()].filter((name) => !expected.has(name) && !computed.test(name))
  const head = file.tensors.get("lm_head.weight")
  const stray = surplus.filter((name) => name !== "lm_head.weight")
  if (stray[0] !== undefined) {
    const others = stray.length > 1 ? ` and ${stray.length - 1} more` : ""
    return yield* ModelError.unsupported({
      operation: "load model",
      file: file.path,
      tensor: stray[0],
      option: stray[0],
      message: `${file.path}: tensor ${quote(stray[0])}${others} has no place in the model of config.json (${config.modelType}, ${config.numLayers} layers); take the config.json that came with these weights`
    })
  }
  if (head !== undefined && surplus.length > 0) yield* requireTiedHead(file, head)
})

const pieceElements = 4 * 1024 * 1024

/** A model with `tie_word_embeddings` that stores a head all the same must store the embedding twice. */
const requireTiedHead = Effect.fnUntraced(function* (file: SafetensorsFile, head: TensorInfo) {
  const differ = ModelError.malformed({
    operation: "load model",
    file: file.path,
    tensor: head.name,
    message: `${file.path}: tensor ${quote(head.name)} is not the embedding although config.json has tie_word_embeddings; take the config.json that came with these weights`
  })
  const embed = file.tensors.get("model.embed_tokens.weight")
  if (embed === undefined || embed.dtype !== head.dtype || embed.bytes !== head.bytes) return yield* differ
  for (let at = 0; at < head.elements; at += pieceElements) {
    const count = Math.min(pieceElements, head.elements - at)
    const [one, two] = [yield* file.readRaw(embed.name, at, count), yield* file.readRaw(head.name, at, count)]
    for (let i = 0; i < one.length; i++) if (one[i] !== two[i]) return yield* differ
  }
})
