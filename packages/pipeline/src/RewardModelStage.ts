/**
 * The sequence reward of the run: a pairwise reward model trained on secure-against-vulnerable pairs; measured on pairs
 * it has not seen, and saved as one flat image (adapter, then head).
 */

import { hash32 } from "@srcode/dataset"
import { type Decoder, loadState, ModelError, promptIds, saveState, type Tokenizer } from "@srcode/model"
import { RunStore } from "@srcode/store"
import { badInput, type PreferencePair, type RewardModelConfig, rewardModelLength, Trainer } from "@srcode/trainer"
import { Effect, Schema } from "effect"
import { longestSequence, openTuned } from "./Models.ts"
import { report } from "./Progress.ts"
import type { RunConfig } from "./RunConfig.ts"
import { type Pair, readWorld } from "./World.ts"

const passTokens = 3072

export const rewardModelConfig = (config: RunConfig): RewardModelConfig => ({
  ...config.rewardModel,
  seed: config.seed,
  capacity: passTokens
})

/** One prompt in eight is kept back to measure the accuracy, with all its pairs; pairs without a prompt go by group. */
const isHeldOut = (pair: Pair): boolean => hash32(pair.prompt === "" ? pair.group : pair.prompt) % 8 === 7

const tokenPair = (pair: Pair, tokenizer: Tokenizer): PreferencePair => {
  const end = tokenizer.eosId === null ? [] : [tokenizer.eosId]
  const ids = (body: string) => [...promptIds(tokenizer, pair.prompt + body), ...end]
  return { chosen: ids(pair.better), rejected: ids(pair.worse) }
}

const Measured = Schema.Struct({ accuracy: Schema.Finite, heldOutPairs: Schema.Int })

export const rewardModelStage = Effect.fn("Stage.rewardModel")(function* (config: RunConfig) {
  const store = yield* RunStore
  const { model, tokenizer } = yield* openTuned(config)
  const { pairs } = yield* readWorld()
  const settings = rewardModelConfig(config)
  const limit = longestSequence(model)
  const usable = pairs
    .map((pair) => ({ ...tokenPair(pair, tokenizer), heldOut: isHeldOut(pair) }))
    .filter(
      (p) =>
        Math.max(p.chosen.length, p.rejected.length) <= limit &&
        p.chosen.length + p.rejected.length <= Math.floor(passTokens / 2)
    )
  const heldOut = usable.filter((p) => p.heldOut)
  const seen = usable.filter((p) => !p.heldOut)
  if (seen.length === 0)
    return yield* badInput(
      `no preference pair fits ${limit} tokens a side and ${passTokens / 2} together; take shorter functions`
    )
  const longest = seen.reduce((max, p) => Math.max(max, p.chosen.length + p.rejected.length), 0)
  const batchSize = Math.max(1, Math.min(settings.batchSize, Math.floor(passTokens / longest)))
  const rewardModel = yield* (yield* Trainer).rewardModel(model.decoder, { ...settings, batchSize })
  const metrics = yield* store.metrics("reward-model", 0)
  yield* rewardModel.train(seen, (step) =>
    Effect.all([
      metrics
        .append(step.step, { loss: step.loss, accuracy: step.accuracy, grad_norm: step.gradNorm })
        .pipe(Effect.orDie),
      report({
        stage: "reward model",
        step: step.step,
        total: settings.steps,
        unit: "steps",
        note: `loss ${step.loss.toFixed(3)}`
      })
    ])
  )
  const measured = (heldOut.length > 0 ? heldOut : seen).slice(0, 64)
  const scores = yield* rewardModel.score(measured.flatMap((p) => [p.chosen, p.rejected]))
  const right = measured.filter((_, i) => (scores[2 * i] ?? 0) > (scores[2 * i + 1] ?? 0)).length
  const accuracy = right / measured.length
  yield* metrics.append(settings.steps + 1, { "eval/accuracy": accuracy, "eval/pairs": measured.length })
  yield* saveState(store.path("rl/reward_model"), {
    tensors: { params: yield* rewardModel.image },
    json: { accuracy, heldOutPairs: heldOut.length }
  })
  return ["rl/reward_model"]
}, Effect.scoped)

/** The trained reward model, and its measured accuracy. */
export const openRewardModel = Effect.fn("Stage.openRewardModel")(function* (config: RunConfig, decoder: Decoder) {
  const store = yield* RunStore
  const settings = rewardModelConfig(config)
  const state = yield* loadState(store.path("rl/reward_model"))
  const image = Float32Array.from(state.tensors.params ?? new Float32Array(0))
  const broken = (message: string) =>
    ModelError.malformed({ operation: "load reward model", file: store.path("rl/reward_model"), message })
  if (image.length !== rewardModelLength(decoder, settings.rank))
    return yield* broken("rl/reward_model belongs to another model or rank; remove it and run again")
  const measured = yield* Schema.decodeUnknownEffect(Measured)(state.json).pipe(
    Effect.mapError(() => broken("rl/reward_model is not a reward model; remove it and run again"))
  )
  const rewardModel = yield* (yield* Trainer).rewardModel(decoder, settings)
  yield* rewardModel.load(image)
  return { rewardModel, accuracy: measured.accuracy }
})
