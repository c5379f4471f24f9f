/** A tokenizer and a random model of two small layers, in a folder of the test's Scope. */
import { NodeServices } from "@effect/platform-node"
import { GpuDawn } from "@srcode/gpu"
import {
  initialFlat,
  loadModel,
  loadModelTokenizer,
  loadTokenizer,
  type ModelConfig,
  trainBpe,
  writeConfig,
  writeFlat,
  writeTokenizer
} from "@srcode/model"
import { normals } from "@srcode/trainer"
import { Effect, FileSystem, Layer } from "effect"

export const DeviceLayer = Layer.mergeAll(GpuDawn.layerWith({ device: "auto" }), NodeServices.layer)

const corpus = Array.from(
  { length: 8 },
  (_, i) => `int f${i}(char *d, int n) {\n  if (n < ${i})\n    return -1;\n  memcpy(d, "é", n);\n  return 0;\n}\n`
)

export const temporaryFolder = Effect.flatMap(FileSystem.FileSystem, (fs) =>
  fs.makeTempDirectoryScoped({ prefix: "srcode-pipeline-" })
)

const writeTiny = Effect.fnUntraced(function* (directory: string) {
  const bpe = yield* trainBpe(corpus, { vocabSize: 280 })
  yield* writeTokenizer(directory, bpe)
  return bpe.tokens.length
})

export const tinyTokenizer = Effect.gen(function* () {
  const directory = yield* temporaryFolder
  yield* writeTiny(directory)
  return yield* loadTokenizer(directory)
})

export const tinyModel = Effect.gen(function* () {
  const directory = yield* temporaryFolder
  const vocabSize = yield* writeTiny(directory)
  const config: ModelConfig = {
    modelType: "qwen2",
    hiddenSize: 16,
    intermediateSize: 24,
    numLayers: 2,
    numHeads: 2,
    numKeyValueHeads: 1,
    headDim: 8,
    vocabSize,
    maxPositionEmbeddings: 128,
    rmsNormEps: 1e-6,
    ropeTheta: 10_000,
    ropeScaling: null,
    tieWordEmbeddings: true,
    attentionBias: true,
    qkNorm: false,
    eosTokenIds: [vocabSize - 1],
    bosTokenId: null
  }
  const flat = initialFlat(config, normals(5, 1)).map((w) => (w === 1 ? w : 8 * w))
  yield* writeConfig(directory, config)
  yield* writeFlat(directory, config, flat, "F32")
  const model = yield* loadModel(directory)
  return { model, tokenizer: yield* loadModelTokenizer(model) }
})
