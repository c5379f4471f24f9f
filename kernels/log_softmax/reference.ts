/**
 * Log-softmax with gather, entropy and exact KL in double precision, over the whole vocabulary at once (the kernels go
 * chunk by chunk). logits [rows, vocab] are divided by the temperature; entropies and divergences are in nats.
 */
export interface LogSoftmaxInput {
  readonly logits: ArrayLike<number>
  /** Of the reference model, same shape and temperature; KL is 0 without. */
  readonly refLogits?: ArrayLike<number> | undefined
  readonly target: ArrayLike<number>
  readonly rows: number
  readonly vocab: number
  readonly temperature: number
}

export interface LogSoftmaxRow {
  readonly logProb: number
  readonly entropy: number
  readonly lse: number
  readonly kl: number
}

const logProbs = (logits: ArrayLike<number>, row: number, vocab: number, temperature: number) => {
  const x = Float64Array.from({ length: vocab }, (_, c) => logits[row * vocab + c]! / temperature)
  const top = x.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY)
  const lse = top + Math.log(x.reduce((sum, v) => sum + Math.exp(v - top), 0))
  return { lse, logP: x.map((v) => v - lse) }
}

/** Per row: log p[target], H = −Σ p log p, log-sum-exp, KL(p ‖ p_ref) = Σ p (log p − log p_ref). */
export const logSoftmax = (x: LogSoftmaxInput): ReadonlyArray<LogSoftmaxRow> =>
  Array.from({ length: x.rows }, (_, r) => {
    const { logP, lse } = logProbs(x.logits, r, x.vocab, x.temperature)
    const ref = x.refLogits ? logProbs(x.refLogits, r, x.vocab, x.temperature).logP : undefined
    let entropy = 0
    let kl = 0
    for (let c = 0; c < x.vocab; c++) {
      const p = Math.exp(logP[c]!)
      entropy -= p * logP[c]!
      if (ref) kl += p * (logP[c]! - ref[c]!)
    }
    return { logProb: logP[x.target[r]!]!, entropy, lse, kl }
  })

/** dlogits [rows, vocab] for grad [rows, 3] = gradients of log-probability, entropy and KL. */
export const logSoftmaxBackward = (x: LogSoftmaxInput, grad: ArrayLike<number>): Float64Array => {
  const out = new Float64Array(x.rows * x.vocab)
  const forward = logSoftmax(x)
  for (let r = 0; r < x.rows; r++) {
    const { logP } = logProbs(x.logits, r, x.vocab, x.temperature)
    const ref = x.refLogits ? logProbs(x.refLogits, r, x.vocab, x.temperature).logP : undefined
    for (let c = 0; c < x.vocab; c++) {
      const p = Math.exp(logP[c]!)
      let d = grad[r * 3]! * ((x.target[r] === c ? 1 : 0) - p) - grad[r * 3 + 1]! * p * (logP[c]! + forward[r]!.entropy)
      if (ref) d += grad[r * 3 + 2]! * p * (logP[c]! - ref[c]! - forward[r]!.kl)
      out[r * x.vocab + c] = d / x.temperature
    }
  }
  return out
}
