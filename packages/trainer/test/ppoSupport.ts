import { initialLora, loraScale } from "@srcode/model"
import { Effect } from "effect"
import {
  bootstrapValue,
  completePpo,
  decodePpoSettings,
  type Feedback,
  gae,
  makePpoTrainer,
  normals,
  type PpoConfig,
  type RewardConfig,
  type Sampled,
  type ScoredResponse,
  totalReward,
  uniformAt,
  uniforms,
  whiten
} from "../src/index.ts"
import { decode, Graph, type Num } from "./reference.ts"
import { config, onGraph, randomAdapter, tinyDecoder } from "./tinyModel.ts"

export const rank = 2
export const C = config.hiddenSize

export type Settings = Parameters<typeof decodePpoSettings>[0]
export const ppoConfig = (settings: Settings = {}, over: Partial<PpoConfig> = {}) =>
  decodePpoSettings({ batchSize: 6, maxTokens: 8, rank, alpha: 4, ...(settings as object) }).pipe(
    Effect.map((s): PpoConfig => ({ ...completePpo(s, 4), ...over })),
    Effect.orDie
  )

export type Response = Sampled & Feedback

export const idsOf = (seed: number, stream: number, length: number) =>
  Array.from({ length }, (_, t) => 1 + Math.floor(uniformAt(seed, stream, t) * (config.vocabSize - 1)))

/** Six responses of different lengths, judgements and endings. */
export const batchOf = (seed: number): ReadonlyArray<Response> =>
  ([[], ["high"], null, [], ["low", "medium"], []] as const).map((severities, i): Response => {
    const ids = idsOf(seed, i, [8, 5, 1, 7, 3, 6][i]!)
    return {
      promptIds: idsOf(seed + 100, i, 1 + (i % 4)),
      generation: { ids, logProbs: ids.map(() => 0), truncated: i === 0 || i === 3 },
      secureMask: ids.map((_, t) => (t + i) % 3 === 0),
      severities,
      rewardModel: 2 * uniformAt(seed + 200, i, 0) - 1
    }
  })
export const batch = batchOf(1)

/** A response of one token to a prompt of one, without a verdict. */
export const one = (prompt: number, id: number, rewardModel: number): Response => ({
  promptIds: [prompt],
  generation: { ids: [id], logProbs: [0], truncated: false },
  secureMask: [false],
  severities: null,
  rewardModel
})

export const identity = () => initialLora(config, rank, uniforms(1, 4))

export const make = Effect.fnUntraced(function* (ppo: PpoConfig, start = identity()) {
  const { decoder, image, flat } = yield* tinyDecoder()
  const trainer = yield* makePpoTrainer(decoder, ppo, start)
  return { trainer, weights: image, flat }
})

/** Parameters with a random adapter and head, and moments of zero: the middle of a run. */
export const randomState = () => {
  const next = normals(31, 0)
  const adapter = randomAdapter(rank, 12)
  const params = new Float32Array(adapter.length + C + 1)
  params.set(adapter)
  for (let i = adapter.length; i < params.length; i++) params[i] = 0.3 * next()
  return { params, m: new Float32Array(params.length), v: new Float32Array(params.length) }
}

/** One pass over a batch in double precision: loss terms, gradient, and what the policy says of each token. */
export const pass = (
  weights: Float32Array,
  params: Float32Array,
  ppo: PpoConfig,
  responses: ReadonlyArray<ScoredResponse>,
  host: { readonly advantages: ReadonlyArray<number>; readonly returns: ReadonlyArray<number> } | null
) => {
  const graph = new Graph()
  const adapter = params.slice(0, -(C + 1))
  const model = onGraph(graph, weights, adapter, rank, loraScale(rank, ppo.alpha, false))
  const head = graph.leaves(params.slice(adapter.length, -1))
  const bias = graph.leaf(params.at(-1) ?? 0)
  const [terms, logProbs, refLogProbs, values]: [Array<Num>, Array<number>, Array<number>, Array<number>] = [
    [],
    [],
    [],
    []
  ]
  let policySum = 0
  for (const response of responses) {
    const ids = [...response.promptIds, ...response.generation.ids]
    const policy = decode(graph, config, model.tensors, model.lora, ids)
    const base = decode(graph, config, model.tensors, null, ids)
    const rowOf = (logits: ReadonlyArray<Num>) =>
      graph.logSoftmax(logits.map((x) => graph.scale(x, 1 / ppo.temperature)))
    for (const [t, id] of response.generation.ids.entries()) {
      const row = response.promptIds.length + t - 1
      const logp = rowOf(policy.logits[row]!)
      const ref = rowOf(base.logits[row]!).map((x) => x.value)
      const p = logp.map(graph.exp)
      const value = graph.sum(graph.dot(policy.states[row]!, head), bias)
      const at = logProbs.length
      logProbs.push(logp[id]!.value)
      refLogProbs.push(ref[id]!)
      values.push(value.value)
      if (host === null) continue
      const a = host.advantages[at]!
      const target = host.returns[at]!
      const ratio = graph.exp(graph.scale(logp[id]!, 1, -response.logProbs[t]!))
      const limited = graph.clamp(ratio, 1 - ppo.clipLow, 1 + ppo.clipHigh)
      const loss = graph.max(graph.scale(ratio, -a), graph.scale(limited, -a))
      policySum += loss.value
      const old = response.values[t]!
      const errors = [value, graph.clamp(value, old - ppo.valueClip, old + ppo.valueClip)].map((v) => {
        const error = graph.scale(v, 1, -target)
        return graph.mul(error, error)
      })
      const entropy = graph.scale(graph.dot(p, logp), -1)
      const kl = graph.dot(
        p,
        logp.map((x, c) => graph.scale(x, 1, -ref[c]!))
      )
      terms.push(
        graph.linear(
          [loss, graph.max(errors[0]!, errors[1]!), entropy, kl],
          [1, 0.5 * ppo.valueCoef, -ppo.entropyCoef, ppo.klCoef]
        )
      )
    }
  }
  if (host !== null) graph.backward(graph.scale(graph.sum(...terms), 1 / terms.length))
  const gradient = Float64Array.from([...model.gradient(), ...head.map((x) => x.grad), bias.grad])
  return { gradient, logProbs, refLogProbs, values, policyLoss: policySum / Math.max(1, terms.length) }
}

/** Advantages (whitened over the batch) and returns of a scored batch in double precision. */
export const advantagesOf = (responses: ReadonlyArray<ScoredResponse>, reward: RewardConfig) => {
  const each = responses.map((r) =>
    gae(totalReward(r.channels), r.values, {
      gamma: reward.gamma,
      lambda: reward.lambda,
      lastValue: bootstrapValue(r.values, r.generation.truncated, reward.bootstrapTruncated)
    })
  )
  const advantages = each.flatMap((x) => x.advantages)
  return {
    advantages: whiten(
      advantages,
      advantages.map(() => true)
    ),
    returns: each.flatMap((x) => x.returns)
  }
}

export const sum = (xs: ReadonlyArray<number>): number => xs.reduce((a, b) => a + b, 0)
