/**
 * Writes a checkpoint of random weights in Hugging Face's layout: a model of any preset's shape without its download.
 *
 *     node packages/model/scripts/random-checkpoint.ts --preset qwen2.5-coder-0.5b --out DIR [--dtype bf16|f16|f32] [--seed 1]
 *          [--layers N] [--vocab N] [--shard-bytes 5000000000] [--tokenizer DIR]
 *
 * Values are normal with standard deviation 0.02 (norms 1 ± 0.05), made as stored bits: 16 random bits pick one of 65,536
 * quantiles from a table. A tensor's values follow from the seed and its name alone, whatever the shards. One buffer of
 * 4 Mi elements is all the memory it takes. `config.json` comes last, so a killed run leaves no folder that looks whole.
 */
import { parseArgs } from "node:util"
import { NodeServices } from "@effect/platform-node"
import { Effect, FileSystem } from "effect"
import { type ModelConfig, tensorShapes, writeConfig } from "../src/Config.ts"
import { encodeBf16, encodeF16 } from "../src/internal/half.ts"
import { elementsOf } from "../src/internal/safetensors-layout.ts"
import { modelPresets as presets } from "../src/Presets.ts"
import { type StreamedTensor, writeShardedSafetensors } from "../src/SafetensorsStream.ts"

export type Dtype = "bf16" | "f16" | "f32"

const dtypes = {
  bf16: { name: "BF16", config: "bfloat16", bytes: 2 },
  f16: { name: "F16", config: "float16", bytes: 2 },
  f32: { name: "F32", config: "float32", bytes: 4 }
} as const

/** The quantile function of the standard normal (Beasley & Springer's rational form, improved by Moro), about 1e-8. */
const quantile = (p: number): number => {
  const y = p - 0.5
  if (Math.abs(y) < 0.42) {
    const r = y * y
    const top = 2.50662823884 + r * (-18.61500062529 + r * (41.39119773534 - 25.44106049637 * r))
    const bottom = 1 + r * (-8.4735109309 + r * (23.08336743743 + r * (-21.06224101826 + 3.13082909833 * r)))
    return (y * top) / bottom
  }
  const r = Math.log(-Math.log(y > 0 ? 1 - p : p))
  const c = [
    0.3374754822726147, 0.9761690190917186, 0.1607979714918209, 0.0276438810333863, 0.0038405729373609,
    0.0003951896511919, 0.0000321767881768, 0.0000002888167364, 0.0000003960315187
  ]
  const x = c.reduceRight((sum, term) => sum * r + term, 0)
  return y < 0 ? -x : x
}

/** Stored bits of mean + std · quantile for 65,536 equally likely quantiles. */
const tableOf = (dtype: Dtype, mean: number, std: number): Uint16Array | Uint32Array => {
  const values = Float32Array.from({ length: 65_536 }, (_, i) => mean + std * quantile((i + 0.5) / 65_536))
  if (dtype === "bf16") return encodeBf16(values)
  if (dtype === "f16") return encodeF16(values)
  return new Uint32Array(values.buffer)
}

/** FNV-1a of the name, mixed with the seed: the first state of a tensor's generator, never 0. */
const stateOf = (seed: number, name: string): number => {
  let hash = 0x811c9dc5 ^ Math.imul(seed, 0x9e3779b1)
  for (let i = 0; i < name.length; i++) hash = Math.imul(hash ^ name.charCodeAt(i), 0x01000193)
  hash = Math.imul(hash ^ (hash >>> 15), 0x2c1b3c6d)
  return (hash ^ (hash >>> 12)) | 1
}

/** Fills the first `count` elements (two a step of Marsaglia's xorshift32); returns the state. `count` is even but at the end. */
const fill = (
  target: Uint16Array | Uint32Array,
  count: number,
  table: Uint16Array | Uint32Array,
  from: number
): number => {
  let x = from
  for (let i = 0; i < count; i += 2) {
    x ^= x << 13
    x ^= x >>> 17
    x ^= x << 5
    target[i] = table[x & 0xffff]!
    target[i + 1] = table[x >>> 16]!
  }
  return x
}

/** Elements of one piece, even. */
const chunk = 4 * 1024 * 1024

/** The model's tensors in order of their names; `produce` fills one buffer that all of them share. */
const randomTensors = (config: ModelConfig, dtype: Dtype, seed: number): ReadonlyArray<StreamedTensor> => {
  const { name: stored, bytes } = dtypes[dtype]
  const tables = { norm: tableOf(dtype, 1, 0.05), other: tableOf(dtype, 0, 0.02) }
  const buffer = bytes === 2 ? new Uint16Array(chunk) : new Uint32Array(chunk)
  return [...tensorShapes(config)]
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([name, shape]) => ({
      name,
      shape,
      dtype: stored,
      produce: Effect.fnUntraced(function* (emit) {
        const table = /norm\.weight$/.test(name) ? tables.norm : tables.other
        const elements = elementsOf(shape)
        let state = stateOf(seed, name)
        for (let at = 0; at < elements; at += chunk) {
          const count = Math.min(chunk, elements - at)
          state = fill(buffer, count, table, state)
          yield* emit(new Uint8Array(buffer.buffer, 0, count * bytes))
        }
      })
    }))
}

export interface RandomCheckpoint {
  readonly config: ModelConfig
  readonly directory: string
  readonly dtype: Dtype
  readonly seed: number
  /** Largest number of tensor bytes a file; one tensor is never split. */
  readonly shardBytes: number
  /** A folder whose tokenizer files are copied. */
  readonly tokenizer?: string | undefined
}

/** Gives the number of parameters. The folder may exist, but not hold a model. */
export const writeRandomCheckpoint = Effect.fn("writeRandomCheckpoint")(function* (options: RandomCheckpoint) {
  const { config, directory, dtype, seed, shardBytes } = options
  const { bytes, config: dtypeName } = dtypes[dtype]
  const fs = yield* FileSystem.FileSystem
  if (yield* fs.exists(`${directory}/config.json`))
    return yield* Effect.fail(new Error(`${directory} holds a model already; give another folder`))
  const { totalBytes } = yield* writeShardedSafetensors(directory, randomTensors(config, dtype, seed), { shardBytes })
  const eos = config.eosTokenIds.length === 1 ? config.eosTokenIds[0] : config.eosTokenIds
  const generation = { bos_token_id: config.bosTokenId, eos_token_id: eos }
  yield* fs.writeFileString(`${directory}/generation_config.json`, `${JSON.stringify(generation, null, 2)}\n`)
  if (options.tokenizer !== undefined) {
    for (const file of yield* fs.readDirectory(options.tokenizer)) {
      if (/^(tokenizer|special_tokens|added_tokens|vocab|merges|chat_template)/.test(file))
        yield* fs.copyFile(`${options.tokenizer}/${file}`, `${directory}/${file}`)
    }
  }
  yield* writeConfig(directory, config, dtypeName)
  return totalBytes / bytes
})

const usage = `usage: node random-checkpoint.ts --preset ${Object.keys(presets).join("|")} --out DIR
  [--dtype bf16|f16|f32] [--seed N] [--layers N] [--vocab N] [--shard-bytes N] [--tokenizer DIR]`

const main = async (): Promise<void> => {
  const text = { type: "string" } as const
  const { values } = parseArgs({
    options: {
      preset: text,
      out: text,
      dtype: { ...text, default: "bf16" },
      seed: { ...text, default: "1" },
      layers: text,
      vocab: text,
      "shard-bytes": { ...text, default: "5000000000" },
      tokenizer: text
    }
  })
  const { preset, out, dtype } = values
  const base = preset === undefined ? undefined : presets[preset]
  const whole = (name: string, value: string, least: number): number => {
    const n = Number(value)
    if (!Number.isSafeInteger(n) || n < least) throw new Error(`--${name} ${value} is not a whole number from ${least}`)
    return n
  }
  if (base === undefined || out === undefined || (dtype !== "bf16" && dtype !== "f16" && dtype !== "f32")) {
    throw new Error(usage)
  }
  const vocabSize = whole("vocab", values.vocab ?? String(base.vocabSize), 1)
  const config: ModelConfig = {
    ...base,
    numLayers: whole("layers", values.layers ?? String(base.numLayers), 1),
    vocabSize,
    eosTokenIds: base.eosTokenIds.filter((id) => id < vocabSize),
    bosTokenId: base.bosTokenId !== null && base.bosTokenId < vocabSize ? base.bosTokenId : null
  }
  const started = performance.now()
  const write = writeRandomCheckpoint({
    config,
    directory: out,
    dtype,
    seed: whole("seed", values.seed, 0),
    shardBytes: whole("shard-bytes", values["shard-bytes"], 1),
    tokenizer: values.tokenizer
  })
  const parameters = await Effect.runPromise(write.pipe(Effect.provide(NodeServices.layer)))
  const seconds = (performance.now() - started) / 1000
  const millions = (parameters / 1e6).toFixed(parameters < 1e7 ? 2 : 0)
  process.stdout.write(`${out}: ${millions} M parameters in ${dtype}, written in ${seconds.toFixed(1)} s\n`)
}

if (import.meta.main) {
  await main().catch((error: unknown) => {
    process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`)
    process.exitCode = 1
  })
}
