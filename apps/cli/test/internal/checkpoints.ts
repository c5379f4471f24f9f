/**
 * Small random Qwen2 folders in Hugging Face's layout for the commands that compute, and what tests say of their
 * outcome. The tensors are kept, so that a test can compute the same model in double precision (qwen2.ts).
 */
import * as fs from "node:fs"
import * as nodePath from "node:path"
import { NodeServices } from "@effect/platform-node"
import { assert } from "@effect/vitest"
import {
  type LinearModule,
  type LoraKey,
  type LoraPair,
  linearModules,
  linearShapes,
  loraKey,
  type ModelConfig,
  tensorShapes,
  trainBpe,
  writeAdapter,
  writeConfig,
  writeSafetensors,
  writeTokenizer
} from "@srcode/model"
import { Effect } from "effect"
import { type Ended, type Options, run } from "./process.ts"

/** mulberry32 and Box–Muller: normal numbers from a 32-bit seed. */
export const normals = (seed: number): (() => number) => {
  let state = seed >>> 0
  const uniform = () => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = state
    t = Math.imul(t ^ (t >>> 15), t | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }
  return () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform())
}

const base: ModelConfig = {
  modelType: "qwen2",
  hiddenSize: 12,
  intermediateSize: 20,
  numLayers: 2,
  numHeads: 2,
  numKeyValueHeads: 1,
  headDim: 4,
  vocabSize: 23,
  maxPositionEmbeddings: 64,
  rmsNormEps: 1e-6,
  ropeTheta: 10_000,
  ropeScaling: null,
  tieWordEmbeddings: false,
  attentionBias: true,
  qkNorm: false,
  eosTokenIds: [0],
  bosTokenId: null
}

/** 23 tokens and no tokenizer. */
export const micro = base

/** Speaks text: 256 bytes, some merges and the end token, which is the last id. */
export const speaking: ModelConfig = {
  ...base,
  hiddenSize: 16,
  vocabSize: 280,
  maxPositionEmbeddings: 256,
  eosTokenIds: [279]
}

export type Tensors = ReadonlyMap<string, Float32Array<ArrayBuffer>>

const execute = <A, E>(effect: Effect.Effect<A, E, NodeServices.NodeServices>): Promise<A> =>
  Effect.runPromise(effect.pipe(Effect.provide(NodeServices.layer)))

export const corpus = [
  "int add(int a, int b) {\n  return a + b;\n}\n",
  "int main(void) {\n  return add(1, 2);\n}\n",
  "static int clamp(int x, int low, int high) {\n  return x < low ? low : x > high ? high : x;\n}\n"
]

/** Writes config.json and model.safetensors, and the tokenizer of a model that speaks; gives back the tensors. */
export const writeModel = (folder: string, config: ModelConfig, seed: number): Promise<Tensors> =>
  execute(
    Effect.gen(function* () {
      const normal = normals(seed)
      const tensors = [...tensorShapes(config)].map(([name, shape]) => {
        const length = shape.reduce((a, b) => a * b, 1)
        const norm = name.includes("norm")
        const std = norm ? 0.2 : name.endsWith("bias") ? 0.3 : 1 / Math.sqrt(shape.at(-1) ?? 1)
        const data = Float32Array.from({ length }, () => (norm ? 1 : 0) + std * normal())
        return { name, shape, data }
      })
      yield* writeConfig(folder, config)
      yield* writeSafetensors(`${folder}/model.safetensors`, tensors)
      if (config.vocabSize > 256)
        yield* writeTokenizer(folder, yield* trainBpe(corpus, { vocabSize: config.vocabSize }))
      return new Map(tensors.map(({ name, data }) => [name, data]))
    })
  )

/** A random adapter with B away from zero. */
export const writeLora = (
  folder: string,
  config: ModelConfig,
  options: {
    readonly rank: number
    readonly alpha: number
    readonly seed: number
    readonly modules?: ReadonlyArray<LinearModule>
  }
): Promise<ReadonlyMap<LoraKey, LoraPair>> =>
  execute(
    Effect.gen(function* () {
      const normal = normals(options.seed)
      const shapes = linearShapes(config)
      const modules = options.modules ?? linearModules
      const tensors = new Map<LoraKey, LoraPair>()
      for (let layer = 0; layer < config.numLayers; layer++) {
        for (const module of modules) {
          const [out, inner] = shapes[module]
          const a = Float32Array.from({ length: options.rank * inner }, () => normal() / Math.sqrt(inner))
          const b = Float32Array.from({ length: out * options.rank }, () => 0.3 * normal())
          tensors.set(loraKey(layer, module), { a, b })
        }
      }
      yield* writeAdapter(folder, config, { rank: options.rank, alpha: options.alpha, targetModules: modules, tensors })
      return tensors
    })
  )

/** Runs a command on the device that this machine has. */
export const compute = (args: ReadonlyArray<string>, options: Options = {}): Promise<Ended> =>
  run(args, { ...options, env: { SRCODE_DEVICE: process.env.SRCODE_DEVICE ?? "auto", ...options.env } })

/** Lines of stderr that this program wrote: a Vulkan driver may warn there on its own. */
export const ownLines = (ended: Ended): ReadonlyArray<string> =>
  ended.stderr.split("\n").filter((line) => line !== "" && !line.startsWith("Warning: "))

/** One line on stderr with these texts, exit code 1, no stack trace; progress lines of stages may stand before it. */
export const isUserError = (ended: Ended, ...texts: ReadonlyArray<string>): void => {
  // Where a stage stands, and the memory plan, may come before the error.
  const lines = ownLines(ended).filter((line) => !/^[a-z][a-z0-9 -]*: \d+|; memory plan: /.test(line))
  assert.lengthOf(lines, 1, ended.stderr)
  assert.match(lines[0] ?? "", /^srcode: /)
  for (const text of texts) assert.include(lines[0], text)
  assert.notMatch(ended.stderr, /\n\s+at /)
  assert.strictEqual(ended.code, 1, ended.stderr)
}

export const succeeds = (ended: Ended): Ended => {
  assert.strictEqual(ended.code, 0, ended.stderr)
  return ended
}

export const writeLines = (file: string, rows: ReadonlyArray<unknown>): string => {
  fs.writeFileSync(file, rows.map((row) => `${JSON.stringify(row)}\n`).join(""))
  return file
}

export const readLines = (file: string) =>
  fs
    .readFileSync(file, "utf8")
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line))

/** Bytes of every file at or under a path, by relative name. */
export const bytesUnder = (folder: string): Record<string, string> =>
  Object.fromEntries(
    fs
      .readdirSync(folder, { recursive: true, encoding: "utf8" })
      .sort()
      .filter((name) => fs.statSync(nodePath.join(folder, name)).isFile())
      .map((name) => [name, fs.readFileSync(nodePath.join(folder, name)).toString("base64")])
  )
