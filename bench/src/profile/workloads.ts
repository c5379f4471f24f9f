/**
 * The work that is profiled, through the same trainer, scorer and engine as always: a step of supervised tuning, a pass
 * for log-probabilities, prompts into the cache, and decode steps. Tokens are random; nothing of the figures depends on them.
 */
import { type CostHints, Gpu, type GpuError } from "@srcode/gpu"
import {
  allocLora,
  type Checkpointing,
  type Decoder,
  initialLora,
  loraLength,
  type ModelError,
  makeGenerator,
  makeScorer,
  rowLimit
} from "@srcode/model"
import { makeLanguageModelTrainer, type TrainerError } from "@srcode/trainer"
import { Effect, type Scope } from "effect"
import { quickUniforms } from "./randomModel.ts"

export const workloadNames = ["sft", "logprob", "prefill", "decode"] as const
export type WorkloadName = (typeof workloadNames)[number]

export interface Sizes {
  /** Sequences of a training step, a scoring pass, or generated at once. */
  readonly batch: number
  /** Tokens of a trained or scored sequence. */
  readonly sequence: number
  /** Tokens of a prompt, and those decoded after it. */
  readonly prompt: number
  readonly steps: number
  /** Rank of the adapter; alpha is twice that. */
  readonly rank: number
  /** What a training step keeps for its backward pass. */
  readonly checkpointing: Checkpointing
}

/** One piece of work that has its buffers and can be run again and again. */
export interface Prepared {
  readonly run: Effect.Effect<unknown, GpuError | ModelError | TrainerError, Gpu>
  /** The label of the submits that are meant, where a run has others too. */
  readonly label: string | undefined
  /** Tokens that a run takes through the model. */
  readonly tokens: number
  /** Forward passes of the model that a run makes; 1 but for decoding. */
  readonly steps: number
  readonly hints: CostHints
}

const adam = { lr: 1e-4, betas: [0.9, 0.999], eps: 1e-8, weightDecay: 0, clip: 1 } as const

/** Ids below the model's last one, by sequence. */
const randomIds = (count: number, length: number, vocab: number): ReadonlyArray<ReadonlyArray<number>> =>
  Array.from({ length: count }, (_, i) => {
    const next = quickUniforms(i + 1)
    return Array.from({ length }, () => Math.floor(next() * (vocab - 1)))
  })

const causal = (length: number): CostHints => ({ keysPerQuery: (length + 1) / 2 })

type Prepare = (
  decoder: Decoder,
  sizes: Sizes
) => Effect.Effect<Prepared, GpuError | ModelError | TrainerError, Gpu | Scope.Scope>

const sft: Prepare = (decoder, { batch, checkpointing, rank, sequence }) =>
  Effect.gen(function* () {
    const gpu = yield* Gpu
    const { config } = decoder
    const lora = yield* allocLora(config, { rank, alpha: 2 * rank })
    const initial = new Float32Array(loraLength(config, rank))
    initial.set(initialLora(config, rank, quickUniforms(99)))
    yield* gpu.write(lora.params.flat, initial)
    const rows = randomIds(batch, sequence, config.vocabSize).map((ids) => ({ ids, loss: () => true }))
    const options = { stage: "sft", capacity: batch * sequence, checkpointing }
    const trainer = yield* makeLanguageModelTrainer(decoder, { lora }, options)
    let step = 0
    const run = Effect.suspend(() => trainer.step(rows, adam, ++step))
    return { run, label: undefined, tokens: batch * sequence, steps: 1, hints: causal(sequence) }
  })

const logprob: Prepare = (decoder, { batch, sequence }) =>
  Effect.gen(function* () {
    const scorer = yield* makeScorer(decoder, { capacity: batch * sequence, rank: 1 })
    const rows = randomIds(batch, sequence, decoder.config.vocabSize).map((ids) => ({ ids, loss: () => true }))
    const run = scorer.score(null, rows)
    return { run, label: undefined, tokens: batch * sequence, steps: 1, hints: causal(sequence) }
  })

/** Prompt tokens of a pass at most. */
const largestPrefill = 8192

/** Without end tokens, so that every sequence goes to its length. */
const generation = (decoder: Decoder, { batch, prompt, steps }: Sizes) =>
  Effect.gen(function* () {
    const { info } = yield* Gpu
    const endless = { ...decoder, config: { ...decoder.config, eosTokenIds: [] } }
    const generator = yield* makeGenerator(endless, {
      slots: batch,
      capacity: prompt + steps + 1,
      // Long prompts of many sequences take several passes.
      prefill: Math.min(batch * prompt, largestPrefill, rowLimit(decoder.config, info)),
      rank: 1
    })
    const requests = randomIds(batch, prompt, decoder.config.vocabSize).map((ids, stream) => ({ ids, stream }))
    return (maxTokens: number) => generator.generate(null, requests, { temperature: 1, topP: 0.9, maxTokens, seed: 1 })
  })

const prefill: Prepare = (decoder, sizes) =>
  Effect.map(generation(decoder, sizes), (generate) => ({
    run: generate(1),
    label: undefined,
    tokens: sizes.batch * sizes.prompt,
    steps: 1,
    hints: causal(sizes.prompt)
  }))

const decode: Prepare = (decoder, sizes) =>
  Effect.map(generation(decoder, sizes), (generate) => ({
    // The first token comes with the prompt.
    run: generate(sizes.steps + 1),
    label: "decode",
    tokens: sizes.batch * sizes.steps,
    steps: sizes.steps,
    hints: { keysPerQuery: sizes.prompt + (sizes.steps + 1) / 2 }
  }))

export const workloads: Readonly<Record<WorkloadName, Prepare>> = { sft, logprob, prefill, decode }
