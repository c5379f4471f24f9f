/** What is computed from the reference's logits: scores of a row, a loss over sequences with its gradients, greedy decoding. */
import {
  backward,
  forward,
  type Gradients,
  type Parameters,
  type ReferenceConfig,
  type ReferenceLora
} from "./decoder.ts"

export interface RowScore {
  /** log p(target), entropy and KL(p ‖ reference), nats. */
  readonly logProb: number
  readonly entropy: number
  readonly kl: number
  /** Gradients of the three with respect to the row of logits. */
  readonly dLogProb: Float64Array
  readonly dEntropy: Float64Array
  readonly dKl: Float64Array
}

const logSoftmax = (logits: Float64Array, temperature: number): Float64Array => {
  const top = logits.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY) / temperature
  const total = logits.reduce((sum, z) => sum + Math.exp(z / temperature - top), 0)
  return logits.map((z) => z / temperature - top - Math.log(total))
}

/** Scores one row of logits directly, with the whole vocabulary in hand. */
export const scoreRow = (
  logits: Float64Array,
  target: number,
  temperature = 1,
  reference: Float64Array | null = null
): RowScore => {
  const logp = logSoftmax(logits, temperature)
  const logq = reference === null ? logp : logSoftmax(reference, temperature)
  const p = logp.map(Math.exp)
  let entropy = 0
  let kl = 0
  p.forEach((x, c) => {
    if (x > 0) entropy -= x * logp[c]!
    if (x > 0) kl += x * (logp[c]! - logq[c]!)
  })
  return {
    logProb: logp[target]!,
    entropy,
    kl,
    dLogProb: p.map((x, c) => ((c === target ? 1 : 0) - x) / temperature),
    dEntropy: p.map((x, c) => (-x * (logp[c]! + entropy)) / temperature),
    dKl: p.map((x, c) => (x * (logp[c]! - logq[c]! - kl)) / temperature)
  }
}

export interface ReferenceSequence {
  readonly ids: ReadonlyArray<number>
  readonly loss: (t: number) => boolean
}

/** What a loss weighs: per supervised token, weights of log-probability and entropy. */
export interface LossWeights {
  readonly logProb: number
  readonly entropy: number
  readonly temperature: number
}

/** Log-probabilities and entropies of the supervised tokens, the weighted loss, and (on demand) its gradients. */
export const lossOf = (
  config: ReferenceConfig,
  parameters: Parameters,
  lora: ReferenceLora | null,
  sequences: ReadonlyArray<ReferenceSequence>,
  weights: LossWeights,
  into?: Gradients
): { readonly logProbs: Array<number>; readonly entropy: Array<number>; readonly loss: number } => {
  const V = config.vocabSize
  const logProbs: Array<number> = []
  const entropy: Array<number> = []
  let loss = 0
  for (const { ids, loss: supervised } of sequences) {
    if (ids.length === 0) continue
    const kept = forward(config, parameters, lora, ids)
    const dLogits = new Float64Array(ids.length * V)
    for (let t = 1; t < ids.length; t++) {
      if (!supervised(t)) continue
      const row = scoreRow(kept.logits.subarray((t - 1) * V, t * V), ids[t]!, weights.temperature)
      logProbs.push(row.logProb)
      entropy.push(row.entropy)
      loss += weights.logProb * row.logProb + weights.entropy * row.entropy
      for (let c = 0; c < V; c++)
        dLogits[(t - 1) * V + c] = weights.logProb * row.dLogProb[c]! + weights.entropy * row.dEntropy[c]!
    }
    if (into) backward(config, parameters, lora, kept, dLogits, into)
  }
  return { logProbs, entropy, loss }
}

/** Greedy continuation by full recomputation; `margin` is the smallest lead of a chosen token over the next best. */
export const greedy = (
  config: ReferenceConfig,
  parameters: Parameters,
  lora: ReferenceLora | null,
  prompt: ReadonlyArray<number>,
  count: number
): { readonly ids: Array<number>; readonly margin: number } => {
  const V = config.vocabSize
  const ids = [...prompt]
  let margin = Number.POSITIVE_INFINITY
  for (let n = 0; n < count; n++) {
    const { logits } = forward(config, parameters, lora, ids)
    const row = [...logits.subarray((ids.length - 1) * V)]
    const best = row.reduce((b, z, c) => (z > row[b]! ? c : b), 0)
    margin = Math.min(margin, ...row.map((z, c) => (c === best ? Number.POSITIVE_INFINITY : row[best]! - z)))
    ids.push(best)
  }
  return { ids: ids.slice(prompt.length), margin }
}
