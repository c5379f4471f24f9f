/** Throughput of the embedded model: supervised step, decoding, PPO update; with the shapes of the demo and random tokens. */
import { Gpu } from "@srcode/gpu"
import {
  allocLora,
  initialLora,
  loadModel,
  loraLength,
  makeGenerator,
  packSequences,
  tinyCoderDirectory
} from "@srcode/model"
import { completePpo, decodePpoSettings, makeLanguageModelTrainer, makePpoTrainer, uniforms } from "@srcode/trainer"
import { Effect } from "effect"
import { time } from "./measure.ts"

const adam = { lr: 1e-4, betas: [0.9, 0.999], eps: 1e-8, weightDecay: 0, clip: 1 } as const

const tokens = (length: number, seed: number, vocab: number): ReadonlyArray<number> => {
  const next = uniforms(seed, 9)
  return Array.from({ length }, () => Math.floor(next() * (vocab - 1)))
}

/** 16 rows of 110 tokens, loss on the second half: one optimizer step of supervised tuning. */
export const sft = Effect.fn("bench.sft")(function* (rounds: number) {
  const model = yield* loadModel(tinyCoderDirectory)
  const lora = yield* allocLora(model.config, { rank: 8, alpha: 16 })
  const gpu = yield* Gpu
  yield* gpu.write(lora.params.flat, initialLora(model.config, 8, uniforms(1, 1)))
  const rows = Array.from({ length: 16 }, (_, i) => ({
    ids: tokens(110, i, model.config.vocabSize),
    loss: (t: number) => t >= 55
  }))
  const trainer = yield* makeLanguageModelTrainer(model.decoder, { lora }, { stage: "bench", capacity: 16 * 110 })
  let step = 0
  const timing = yield* time(
    rounds,
    Effect.suspend(() => trainer.step(rows, adam, ++step))
  )
  return { rows: 16, tokens: 16 * 110, ...timing, tokensPerSecond: (16 * 110) / timing.median }
}, Effect.scoped)

/** 32 prompts of 40 tokens, 40 new tokens each. The end token is taken out, so that every row decodes to the end. */
export const decode = Effect.fn("bench.decode")(function* (rounds: number) {
  const model = yield* loadModel(tinyCoderDirectory)
  const gpu = yield* Gpu
  const endless = { ...model.decoder, config: { ...model.config, eosTokenIds: [] } }
  const generator = yield* makeGenerator(endless, { slots: 32, capacity: 96, prefill: 32 * 40, rank: 1 })
  const requests = Array.from({ length: 32 }, (_, i) => ({ ids: tokens(40, i, model.config.vocabSize), stream: i }))
  const run = (maxTokens: number) =>
    generator.generate(null, requests, { temperature: 1, topP: 0.9, maxTokens, seed: 1 })
  const long = yield* time(rounds, run(41))
  const short = yield* time(rounds, run(1))
  const seconds = Math.max(1e-9, long.median - short.median)
  const count = Effect.fnUntraced(function* (maxTokens: number) {
    const before = yield* gpu.dispatches
    yield* run(maxTokens)
    return (yield* gpu.dispatches) - before
  })
  const dispatchesPerStep = ((yield* count(41)) - (yield* count(1))) / 40
  return {
    sequences: 32,
    newTokens: 40,
    seconds,
    tokensPerSecond: (32 * 40) / seconds,
    prefillTokensPerSecond: (32 * 40) / short.median,
    dispatchesPerStep
  }
}, Effect.scoped)

/** One PPO update: 32 responses of 35 tokens to prompts of 40, two epochs, exact KL; rewards are given, no teacher is asked. */
export const ppo = Effect.fn("bench.ppo")(function* (rounds: number) {
  const model = yield* loadModel(tinyCoderDirectory)
  const config = completePpo(
    yield* decodePpoSettings({ batchSize: 32, epochs: 2, maxTokens: 48 }).pipe(Effect.orDie),
    40
  )
  const initial = new Float32Array(loraLength(model.config, config.rank))
  initial.set(initialLora(model.config, config.rank, uniforms(1, 1)))
  const trainer = yield* makePpoTrainer(model.decoder, config, initial)
  const batch = Array.from({ length: 32 }, (_, i) => ({
    promptIds: tokens(40, i, model.config.vocabSize),
    generation: { ids: tokens(35, 100 + i, model.config.vocabSize), logProbs: [], truncated: false },
    secureMask: Array.from({ length: 35 }, (_, t) => t % 5 === 0),
    severities: i % 2 === 0 ? [] : (["high"] as const),
    rewardModel: (i % 5) / 5 - 0.4
  }))
  let step = 0
  const timing = yield* time(
    rounds,
    Effect.suspend(() => trainer.update(batch, ++step))
  )
  const count = packSequences(batch.map((b) => ({ ids: [...b.promptIds, ...b.generation.ids] }))).rows
  return { sequences: 32, tokens: count, epochs: config.epochs, ...timing, tokensPerSecond: count / timing.median }
}, Effect.scoped)
