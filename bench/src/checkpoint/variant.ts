/** One checkpoint at one precision, in a process of its own so that its peak memory is its own: load, score, generate. */
import { Gpu } from "@srcode/gpu"
import { type DtypeChoice, loadModel, type Model, makeGenerator, makeScorer, type Quantization } from "@srcode/model"
import { Clock, Console, Effect } from "effect"
import { time } from "../measure.ts"
import { noise } from "../peers/tinyModel.ts"

export interface Variant {
  readonly dtype: DtypeChoice
  readonly quantize: Quantization
}

export interface VariantOptions extends Variant {
  readonly model: string
  readonly rounds: number
}

/** Tokens of the scored sequence, of a prompt, and those generated after it. */
const sizes = { scored: 64, prompt: 32, fresh: 16 } as const

const tokens = (length: number, seed: number, vocab: number): ReadonlyArray<number> => {
  const next = noise(seed)
  return Array.from({ length }, () => Math.floor(((next() + 1) / 2) * vocab) % vocab)
}

/** Bytes the process has held at most; on a software driver the device's memory is among them. */
const peakResident = (): number => process.resourceUsage().maxRSS * 1024

const load = Effect.fnUntraced(function* (options: VariantOptions) {
  const gpu = yield* Gpu
  const before = peakResident()
  const started = yield* Clock.currentTimeNanos
  const model = yield* loadModel(options.model, {
    dtype: options.dtype,
    quantize: options.quantize,
    maxTokens: 2 * sizes.scored
  })
  yield* gpu.idle
  const seconds = Number((yield* Clock.currentTimeNanos) - started) / 1e9
  const { live } = yield* gpu.memory
  const peak = peakResident()
  const own = gpu.info.software ? peak - before - live : peak - before
  return { model, figures: { seconds, deviceBytes: live, peakResidentBytes: peak, hostBytes: Math.max(0, own) } }
})

const score = Effect.fnUntraced(function* ({ config, decoder }: Model, rounds: number) {
  const scorer = yield* makeScorer(decoder, { capacity: sizes.scored, rank: 1 })
  const sequence = { ids: tokens(sizes.scored, 1, config.vocabSize), loss: () => true }
  const timing = yield* time(rounds, scorer.score(null, [sequence]))
  const [scores] = yield* scorer.score(null, [sequence])
  return {
    tokens: sizes.scored,
    ...timing,
    tokensPerSecond: sizes.scored / timing.median,
    logProbs: [...(scores?.logProbs ?? [])]
  }
}, Effect.scoped)

const generate = Effect.fnUntraced(function* ({ config, decoder }: Model, rounds: number, batch: number) {
  const endless = { ...decoder, config: { ...config, eosTokenIds: [] } }
  const generator = yield* makeGenerator(endless, {
    slots: batch,
    capacity: sizes.scored,
    prefill: batch * sizes.prompt,
    rank: 1
  })
  const requests = Array.from({ length: batch }, (_, stream) => ({
    ids: tokens(sizes.prompt, 2 + stream, config.vocabSize),
    stream
  }))
  const run = (maxTokens: number) => generator.generate(null, requests, { temperature: 0, topP: 1, maxTokens, seed: 1 })
  const long = yield* time(rounds, run(1 + sizes.fresh))
  const short = yield* time(rounds, run(1))
  // The quickest of each: a busy moment in one of them would fall on their difference with all its weight.
  const seconds = long.min - short.min
  return {
    batch,
    prompt: sizes.prompt,
    newTokens: sizes.fresh,
    prefillSeconds: short.min,
    prefillTokensPerSecond: (batch * sizes.prompt) / short.min,
    prefillCpuSeconds: short.cpu,
    decodeSeconds: seconds,
    decodeCpuSeconds: long.cpu - short.cpu,
    decodeTokensPerSecond: seconds > 0 ? (batch * sizes.fresh) / seconds : null
  }
}, Effect.scoped)

/** The figures of one precision. */
export const measureVariant = Effect.fn("bench.variant")(function* (options: VariantOptions) {
  const gpu = yield* Gpu
  const { model, figures } = yield* load(options)
  const { linear, table } = model.precision
  yield* Console.log(
    `${options.dtype}, ${options.quantize}: layers in ${linear}, tables in ${table}: loaded in ${figures.seconds.toFixed(1)} s, ` +
      `${(figures.deviceBytes / 2 ** 20).toFixed(0)} MiB on the device, ${(figures.hostBytes / 2 ** 20).toFixed(0)} MiB beside it`
  )
  const scored = yield* score(model, options.rounds)
  yield* Console.log(`  score ${scored.tokens} tokens: ${scored.tokensPerSecond.toFixed(2)} tokens/s`)
  const generated = []
  for (const batch of [1, 4]) {
    const one = yield* generate(model, options.rounds, batch)
    yield* Console.log(
      `  batch ${batch}: prefill ${one.prefillTokensPerSecond.toFixed(2)}, decode ${one.decodeTokensPerSecond?.toFixed(2) ?? "?"} tokens/s`
    )
    generated.push(one)
  }
  const { peak } = yield* gpu.memory
  return {
    variant: {
      dtype: options.dtype,
      quantize: options.quantize,
      storage: model.precision,
      load: figures,
      score: scored,
      generate: generated,
      peakDeviceBytes: peak,
      peakResidentBytes: peakResident()
    }
  }
}, Effect.scoped)
