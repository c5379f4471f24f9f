/**
 * The PPO objective per token in double precision (Schulman et al. 2017 and the soft variants), not yet divided by the
 * token count. Gradients are written out; the tests hold them against finite differences of `ppoLoss`.
 */
export type PolicyLossKind = "clip" | "dualClip" | "cispo" | "sapo"

export interface PpoLossParams {
  readonly kind: PolicyLossKind
  readonly clipLow: number
  readonly clipHigh: number
  readonly valueClip: number
  readonly valueCoef: number
  readonly entropyCoef: number
  readonly klCoef: number
  /** Factor c of dual clip: with A < 0 the loss is at most −c·A. */
  readonly dualClip: number
  readonly tauPositive: number
  readonly tauNegative: number
}

export interface PpoToken {
  readonly logProb: number
  readonly entropy: number
  readonly kl: number
  readonly oldLogProb: number
  readonly oldValue: number
  readonly advantage: number
  readonly value: number
  readonly returns: number
}

export interface PpoTokenLoss {
  readonly policy: number
  readonly value: number
  /** policy + valueCoef·value − entropyCoef·H + klCoef·KL. */
  readonly total: number
  readonly clipped: boolean
  readonly valueClipped: boolean
  readonly ratio: number
  /** Schulman's k3 = ρ − 1 − log ρ of the clamped log-ratio. */
  readonly k3: number
}

const clamp = (x: number, low: number, high: number): number => Math.min(high, Math.max(low, x))
const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x))

/**
 * Losses of one token. CISPO holds its weight min(ρ, 1 + high) constant, so pass `frozenRatio` when differentiating
 * numerically: the ratio at the point of expansion.
 */
export const ppoLoss = (t: PpoToken, p: PpoLossParams, frozenRatio?: number): PpoTokenLoss => {
  const bounded = clamp(t.logProb - t.oldLogProb, -20, 20)
  const ratio = Math.exp(bounded)
  const a = t.advantage
  let policy: number
  let clipped = false
  if (p.kind === "cispo") {
    policy = -Math.min(frozenRatio ?? ratio, 1 + p.clipHigh) * a * t.logProb
    clipped = ratio > 1 + p.clipHigh
  } else if (p.kind === "sapo") {
    const tau = a > 0 ? p.tauPositive : p.tauNegative
    policy = ((-a * 4) / tau) * sigmoid(tau * (ratio - 1))
  } else {
    const plain = -ratio * a
    const limited = -clamp(ratio, 1 - p.clipLow, 1 + p.clipHigh) * a
    policy = Math.max(plain, limited)
    clipped = limited > plain
    if (p.kind === "dualClip" && a < 0 && policy > -p.dualClip * a) {
      policy = -p.dualClip * a
      clipped = true
    }
  }
  const limitedValue = clamp(t.value, t.oldValue - p.valueClip, t.oldValue + p.valueClip)
  const [plainError, limitedError] = [(t.value - t.returns) ** 2, (limitedValue - t.returns) ** 2]
  const value = 0.5 * Math.max(plainError, limitedError)
  return {
    policy,
    value,
    total: policy + p.valueCoef * value - p.entropyCoef * t.entropy + p.klCoef * t.kl,
    clipped,
    valueClipped: limitedError > plainError,
    ratio,
    k3: ratio - 1 - bounded
  }
}

export interface PpoTokenGradient {
  readonly logProb: number
  readonly entropy: number
  readonly kl: number
  readonly value: number
}

/** Derivatives of `total` with respect to log-probability, entropy, KL and value. */
export const ppoLossGradient = (t: PpoToken, p: PpoLossParams): PpoTokenGradient => {
  const logRatio = t.logProb - t.oldLogProb
  const ratio = Math.exp(clamp(logRatio, -20, 20))
  const slope = Math.abs(logRatio) <= 20 ? ratio : 0
  const a = t.advantage
  const loss = ppoLoss(t, p)
  let logProb: number
  if (p.kind === "cispo") logProb = -Math.min(ratio, 1 + p.clipHigh) * a
  else if (p.kind === "sapo") {
    const gate = sigmoid((a > 0 ? p.tauPositive : p.tauNegative) * (ratio - 1))
    logProb = -a * 4 * gate * (1 - gate) * slope
  } else logProb = loss.clipped ? 0 : -a * slope
  const inside = Math.abs(t.value - t.oldValue) <= p.valueClip
  const value = loss.valueClipped && !inside ? 0 : t.value - t.returns
  return { logProb, entropy: -p.entropyCoef, kl: p.klCoef, value: p.valueCoef * value }
}
