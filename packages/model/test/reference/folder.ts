/**
 * A model folder as the formats define it, read with nothing of the package: plain JSON, header entries as they stand,
 * numbers widened by hand to double precision. Checks nothing that it does not need; throws on what cannot be read.
 */
import * as fs from "node:fs"
import type { ReferenceConfig } from "./decoder.ts"

type Json = Record<string, unknown>
const parse = (file: string): Json => JSON.parse(fs.readFileSync(file, "utf8")) as Json

/** bf16: the upper half of an f32. */
const bfloat = (bits: number): number => new Float32Array(new Uint32Array([bits << 16]).buffer)[0]!

/** IEEE 754 half precision from its three fields. */
const half = (bits: number): number => {
  const sign = bits & 0x8000 ? -1 : 1
  const exponent = (bits >> 10) & 31
  const fraction = bits & 1023
  if (exponent === 31) return fraction === 0 ? sign * Number.POSITIVE_INFINITY : Number.NaN
  return exponent === 0 ? sign * fraction * 2 ** -24 : sign * (1 + fraction / 1024) * 2 ** (exponent - 15)
}

const decoders: Readonly<Record<string, readonly [number, (view: DataView, at: number) => number]>> = {
  F64: [8, (view, at) => view.getFloat64(at, true)],
  F32: [4, (view, at) => view.getFloat32(at, true)],
  F16: [2, (view, at) => half(view.getUint16(at, true))],
  BF16: [2, (view, at) => bfloat(view.getUint16(at, true))]
}

export interface StoredTensor {
  readonly shape: ReadonlyArray<number>
  readonly data: Float64Array
}

const readFile = (file: string): Map<string, StoredTensor> => {
  const bytes = fs.readFileSync(file)
  const length = Number(bytes.readBigUInt64LE(0))
  const header = JSON.parse(bytes.subarray(8, 8 + length).toString("utf8")) as Json
  const tensors = new Map<string, StoredTensor>()
  for (const [name, entry] of Object.entries(header)) {
    if (name === "__metadata__") continue
    const { dtype, shape, data_offsets } = entry as { dtype: string; shape: Array<number>; data_offsets: Array<number> }
    const [size, decode] = decoders[dtype]!
    const [from, to] = [8 + length + data_offsets[0]!, 8 + length + data_offsets[1]!]
    const view = new DataView(bytes.buffer, bytes.byteOffset + from, to - from)
    const data = Float64Array.from({ length: (to - from) / size }, (_, i) => decode(view, i * size))
    tensors.set(name, { shape, data })
  }
  return tensors
}

/** All tensors of a folder by name: of the single file where there is one, else each from the file the index names. */
export const readTensors = (directory: string): ReadonlyMap<string, StoredTensor> => {
  const single = `${directory}/model.safetensors`
  if (fs.existsSync(single)) return readFile(single)
  const map = parse(`${single}.index.json`).weight_map as Record<string, string>
  const files = new Map([...new Set(Object.values(map))].map((file) => [file, readFile(`${directory}/${file}`)]))
  return new Map(Object.entries(map).map(([name, file]) => [name, files.get(file)!.get(name)!]))
}

/** The configuration with the families' own defaults. */
export const readReferenceConfig = (directory: string): ReferenceConfig => {
  const raw = parse(`${directory}/config.json`)
  const family = raw.model_type
  const number = (key: string, otherwise?: number): number => {
    const value = raw[key] ?? otherwise
    if (typeof value !== "number") throw new Error(`${key} is ${String(value)}`)
    return value
  }
  const numHeads = number("num_attention_heads")
  const hiddenSize = number("hidden_size")
  const scaling = (raw.rope_scaling ?? null) as ReferenceConfig["ropeScaling"]
  const bias = raw.attention_bias ?? family === "qwen2"
  return {
    hiddenSize,
    intermediateSize: number("intermediate_size"),
    numLayers: number("num_hidden_layers"),
    numHeads,
    numKeyValueHeads:
      raw.num_key_value_heads === null ? numHeads : number("num_key_value_heads", family === "llama" ? numHeads : 32),
    headDim: number("head_dim", family === "qwen3" ? 128 : hiddenSize / numHeads),
    vocabSize: number("vocab_size"),
    rmsNormEps: number("rms_norm_eps", 1e-6),
    ropeTheta: number("rope_theta", 10_000),
    ropeScaling: scaling !== null && "type" in scaling ? scaling : null,
    tieWordEmbeddings: raw.tie_word_embeddings === true,
    attentionBias: bias === true,
    qkNorm: family === "qwen3"
  }
}
