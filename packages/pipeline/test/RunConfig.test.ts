/** The experiment file: defaults, refusals with every problem named, and the smaller settings. */
import { assert, describe, it } from "@effect/vitest"
import { tinyCoderDirectory } from "@srcode/model"
import { Effect, Schema } from "effect"
import { decodeRunConfig, quickRun, RunConfig } from "../src/index.ts"

describe("RunConfig", () => {
  it.effect("an empty file is the whole default experiment", () =>
    Effect.gen(function* () {
      const config = yield* decodeRunConfig({})
      assert.strictEqual(config.model, tinyCoderDirectory)
      assert.deepInclude(config, { seed: 1, data: null, limit: null, order: "shuffledWithinKind", sftRows: 400 })
      assert.deepInclude(config.sft, { steps: 50, lr: 2e-3, schedule: "linear", batchSize: 16, rank: 8, alpha: 16 })
      assert.deepInclude(config.rl, { steps: 16, epochs: 4, batchSize: 32, policyLoss: "clip", klCoef: 0.3 })
      assert.deepInclude(config.rewardModel, { steps: 50, batchSize: 14 })
      assert.deepStrictEqual(config.arms, ["none", "gated"])
      assert.deepInclude(config.evaluation, { temperature: 0.8, limit: null })
      assert.isFalse("reward" in config.rl)
    })
  )

  it.effect("a part that is given keeps the method's defaults for the rest", () =>
    Effect.gen(function* () {
      const config = yield* decodeRunConfig({ sft: { steps: 3 }, rl: { reward: { alpha: 0.5 } }, arms: [] })
      assert.deepInclude(config.sft, { steps: 3, lr: 2e-4, schedule: "cosine" })
      assert.deepInclude(config.rl.reward, { alpha: 0.5, betaMax: 0.2, gate: "secureOnly" })
      assert.deepStrictEqual(config.arms, [])
    })
  )

  it.effect("what is written as JSON reads back as the same", () =>
    Effect.gen(function* () {
      for (const input of [{}, quickRun, { data: "x.jsonl", limit: 5, rl: { reward: { maxPositive: null } } }]) {
        const config = yield* decodeRunConfig(input)
        const json = yield* Schema.encodeEffect(Schema.toCodecJson(RunConfig))(config)
        assert.deepStrictEqual(yield* decodeRunConfig(JSON.parse(JSON.stringify(json))), config)
      }
    })
  )

  it.effect("unknown keys and values out of range are refused at every depth, by name", () =>
    Effect.gen(function* () {
      for (const [input, named] of [
        [{ sftrows: 3 }, "sftrows"],
        [{ sft: { learningRate: 1 } }, "learningRate"],
        [{ rl: { reward: { alhpa: 1 } } }, "alhpa"],
        [{ rl: { policyLoss: "clipp" } }, "policyLoss"],
        [{ rl: { batchSize: 1 } }, "batchSize"],
        [{ rl: { betas: [0.9, 1] } }, "betas"],
        [{ rewardModel: { lr: 0 } }, "lr"],
        [{ arms: ["gatedd"] }, "arms"],
        [{ evaluation: { topP: 0 } }, "topP"],
        [{ limit: 0 }, "limit"],
        [{ seed: 1.5 }, "seed"],
        [{ model: "" }, "model"],
        [{ sft: { lr: Number.NaN } }, "lr"]
      ] as const) {
        const error = yield* Effect.flip(decodeRunConfig(input))
        assert.include(String(error.message), named)
      }
      const both = String((yield* Effect.flip(decodeRunConfig({ sftrows: 3, seed: "x" }))).message)
      assert.include(both, "sftrows")
      assert.include(both, "seed")
      for (const nonsense of [null, 3, "x", []]) yield* Effect.flip(decodeRunConfig(nonsense))
    })
  )

  it.effect("the quick settings are the same pipeline, nowhere larger", () =>
    Effect.gen(function* () {
      const [quick, full] = [yield* decodeRunConfig(quickRun), yield* decodeRunConfig({})]
      assert.deepStrictEqual(quick.arms, full.arms)
      assert.isBelow(quick.sft.steps * quick.sft.batchSize, full.sft.steps * full.sft.batchSize)
      assert.isBelow(quick.rl.steps * quick.rl.batchSize, full.rl.steps * full.rl.batchSize)
      assert.isBelow(quick.rl.maxTokens, full.rl.maxTokens)
      assert.isBelow(quick.rewardModel.steps, full.rewardModel.steps)
      assert.isNotNull(quick.evaluation.limit)
    })
  )
})
