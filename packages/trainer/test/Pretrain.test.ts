/** Pretraining: the loss falls, the files load, an interrupted run ends with the same bytes, bad input is refused. */
import { NodeServices } from "@effect/platform-node"
import { assert, layer } from "@effect/vitest"
import { GpuDawn } from "@srcode/gpu"
import { hasState, loadModel, type ModelConfig, makeScorer } from "@srcode/model"
import { Effect, Exit, FileSystem, Layer } from "effect"
import { type PretrainOptions, type PretrainProgress, pretrain, tinyCoderConfig, uniformAt } from "../src/index.ts"

const config: ModelConfig = {
  ...tinyCoderConfig(40, 0),
  hiddenSize: 16,
  intermediateSize: 24,
  numLayers: 1,
  numHeads: 2,
  numKeyValueHeads: 1,
  headDim: 8,
  maxPositionEmbeddings: 32
}

const options: PretrainOptions = {
  steps: 6,
  batchSize: 4,
  lr: 1e-2,
  warmup: 2,
  weightDecay: 0.01,
  clip: 1,
  seed: 3,
  saveEvery: 3,
  capacity: 48
}

/** Counting documents: each token is the one before it plus a fixed step, so there is something to learn. */
const documents = Array.from({ length: 10 }, (_, i) => {
  const length = 6 + Math.floor(uniformAt(8, 0, i) * 12)
  return [...Array.from({ length }, (_, t) => 1 + ((i + t) % 39)), 0]
})

const folder = Effect.flatMap(FileSystem.FileSystem, (fs) => fs.makeTempDirectoryScoped({ prefix: "srcode-pretrain-" }))

const run = Effect.fnUntraced(function* (
  directory: string,
  change: Partial<PretrainOptions> = {},
  onStep: (progress: PretrainProgress) => Effect.Effect<void> = () => Effect.void
) {
  const seen: Array<PretrainProgress> = []
  yield* pretrain({
    config,
    documents,
    directory,
    options: { ...options, ...change },
    onStep: (progress) => {
      seen.push(progress)
      return onStep(progress)
    }
  })
  return seen
})

const weightsOf = (directory: string) =>
  Effect.flatMap(FileSystem.FileSystem, (fs) => fs.readFile(`${directory}/model.safetensors`))

layer(Layer.mergeAll(GpuDawn.layerWith({ device: "auto" }), NodeServices.layer))("pretrain", (it) => {
  it.effect("the loss falls from that of a guess, and the folder loads as a model of the last loss", () =>
    Effect.gen(function* () {
      const directory = `${yield* folder}/model`
      const seen = yield* run(directory, { steps: 40, batchSize: 10, capacity: 256 })
      assert.deepStrictEqual(
        seen.map((s) => s.step),
        Array.from({ length: 40 }, (_, i) => i + 1)
      )
      assert.closeTo(seen[0]!.loss, Math.log(40), 0.1)
      assert.closeTo(seen[0]!.entropy, Math.log(40), 0.1)
      assert.isBelow(seen[5]!.loss, seen[0]!.loss)
      assert.isBelow(seen[39]!.loss, 0.7 * seen[0]!.loss)
      assert.isTrue(seen.every((s) => Number.isFinite(s.gradNorm) && s.gradNorm > 0 && s.seconds >= 0))
      const model = yield* loadModel(directory)
      assert.deepStrictEqual(model.config, config)
      const scorer = yield* makeScorer(model.decoder, { capacity: 256, rank: 0 })
      const scores = yield* scorer.score(
        null,
        documents.map((ids) => ({ ids, loss: () => true }))
      )
      const all = scores.flatMap((s) => [...s.logProbs])
      // the whole set is the batch, and the last rate is next to nothing
      assert.closeTo(-all.reduce((a, b) => a + b, 0) / all.length, seen[39]!.loss, 0.02)
      assert.isFalse(yield* hasState(`${directory}/state`))
      const fs = yield* FileSystem.FileSystem
      assert.deepStrictEqual((yield* fs.readDirectory(directory)).sort(), ["config.json", "model.safetensors"])
    })
  )

  it.effect("interrupted anywhere and started again, it ends with the bytes of an uninterrupted run", () =>
    Effect.gen(function* () {
      const root = yield* folder
      const straight = `${root}/straight`
      const whole = yield* run(straight)
      const expected = yield* weightsOf(straight)
      for (const at of [1, 3, 4, 5]) {
        const directory = `${root}/cut-${at}`
        const exit = yield* Effect.exit(
          run(directory, {}, (progress) => (progress.step === at ? Effect.interrupt : Effect.void))
        )
        assert.isTrue(Exit.isFailure(exit))
        assert.strictEqual(yield* hasState(`${directory}/state`), at >= 3)
        const fs = yield* FileSystem.FileSystem
        assert.isFalse(yield* fs.exists(`${directory}/model.safetensors`))
        const rest = yield* run(directory)
        assert.deepStrictEqual(
          rest.map((s) => [s.step, s.loss, s.gradNorm, s.lr]),
          whole.slice(at >= 3 ? 3 : 0).map((s) => [s.step, s.loss, s.gradNorm, s.lr])
        )
        assert.deepStrictEqual(yield* weightsOf(directory), expected)
        assert.isFalse(yield* hasState(`${directory}/state`))
      }
      // the seed and the number of steps matter, so equal bytes say something
      const other = `${root}/other`
      yield* run(other, { seed: 4 })
      assert.notDeepEqual(yield* weightsOf(other), expected)
    })
  )

  it.effect("a state of another model or a damaged one is refused, and stays where it is", () =>
    Effect.gen(function* () {
      const directory = yield* folder
      yield* Effect.exit(run(directory, {}, (p) => (p.step === 3 ? Effect.interrupt : Effect.void)))
      const larger = { ...config, hiddenSize: 32 }
      const refuse = (changed: ModelConfig) =>
        Effect.flip(pretrain({ config: changed, documents, directory, options, onStep: () => Effect.void }))
      const error = yield* refuse(larger)
      assert.strictEqual(error._tag, "ModelError")
      assert.include(error.message, "another shape")
      const fs = yield* FileSystem.FileSystem
      const file = `${directory}/state/state.safetensors`
      const bytes = yield* fs.readFile(file)
      yield* fs.writeFile(
        file,
        bytes.map((byte, i) => (i === bytes.length - 9 ? byte ^ 1 : byte))
      )
      const damaged = yield* refuse(config)
      assert.strictEqual(damaged._tag, "ModelError")
      assert.include(damaged.message, "checksum")
      assert.isTrue(yield* hasState(`${directory}/state`))
    })
  )

  it.effect("documents that cannot be trained on are refused with their number", () =>
    Effect.gen(function* () {
      const directory = `${yield* folder}/model`
      const refuse = Effect.fnUntraced(function* (some: ReadonlyArray<ReadonlyArray<number>>, change = {}) {
        const error = yield* Effect.flip(
          pretrain({
            config,
            documents: some,
            directory,
            options: { ...options, ...change },
            onStep: () => Effect.void
          })
        )
        assert.strictEqual(error._tag, "TrainerError")
        assert.notMatch(error.message, /\n/)
        return error.message
      })
      assert.include(yield* refuse([]), "no document")
      assert.include(
        yield* refuse([
          [1, 2],
          [3, 40]
        ]),
        "document 2"
      )
      assert.include(yield* refuse([[1, 2], Array.from({ length: 33 }, () => 1)]), "32")
      assert.include(yield* refuse([[1, 2, 3, 4, 5]], { capacity: 4 }), "4")
      assert.include(yield* refuse([[1], []]), "two tokens")
      const fs = yield* FileSystem.FileSystem
      assert.isFalse(yield* fs.exists(directory))
    })
  )

  it.effect("a folder that cannot be written is an error of its own", () =>
    Effect.gen(function* () {
      const fs = yield* FileSystem.FileSystem
      const file = `${yield* folder}/file`
      yield* fs.writeFileString(file, "not a folder")
      const error = yield* Effect.flip(run(`${file}/model`, { steps: 1 }))
      assert.strictEqual(error._tag, "ModelError")
      assert.notMatch(error.message, /\n/)
    })
  )
})
