/** The numbers of one PPO update under the field's names. */
import type { PpoMetrics, ScoredResponse } from "../Ppo.ts"
import type { PpoConfig } from "../PpoConfig.ts"
import { totalReward } from "../Reward.ts"

const total = (xs: ReadonlyArray<number>): number => xs.reduce((a, b) => a + b, 0)

const variance = (xs: Float32Array): number => {
  const mean = xs.reduce((a, b) => a + b, 0) / xs.length
  return xs.reduce((a, b) => a + (b - mean) ** 2, 0) / xs.length
}

/** Sum over a response's tokens of |log p(scored) - log p(sampled)|. */
const gap = ({ generation, logProbs }: ScoredResponse): number =>
  total(logProbs.map((logProb, t) => Math.abs(logProb - (generation.logProbs[t] ?? Number.NaN))))

export const ppoMetrics = (input: {
  readonly config: PpoConfig
  readonly step: number
  readonly responses: ReadonlyArray<ScoredResponse>
  /** Sums over all response tokens before the update. */
  readonly kl: number
  readonly entropy: number
  readonly values: Float32Array
  readonly returns: Float32Array
  /** Column sums of the last epoch, in the order of the loss kernel. */
  readonly last: Float32Array
  readonly gradNorm: number
}): PpoMetrics => {
  const { responses, last, values, returns } = input
  const count = returns.length
  const mean = (f: (r: ScoredResponse) => number) => total(responses.map(f)) / responses.length
  const residual = Float32Array.from(returns, (r, i) => r - (values[i] ?? 0))
  return {
    "objective/kl": input.kl / responses.length,
    "objective/entropy": input.entropy / count,
    "objective/scores": mean((r) => r.rewardModel),
    "objective/rlhf_reward": mean((r) => total(totalReward(r.channels))),
    "reward/positive": mean((r) => total(r.channels.positive)),
    "reward/negative": mean((r) => total(r.channels.negative)),
    "reward/reward_model": mean((r) => total(r.channels.rewardModel)),
    "reward/kl": mean((r) => total(r.channels.kl)),
    "reward/secure_fraction": mean((r) => (r.severities !== null && r.severities.length === 0 ? 1 : 0)),
    "reward/no_signal": mean((r) => (r.severities === null ? 1 : 0)),
    "loss/policy_avg": last[0] ?? 0,
    "loss/value_avg": last[1] ?? 0,
    "policy/entropy_avg": last[2] ?? 0,
    "policy/kl_avg": last[3] ?? 0,
    "policy/clipfrac_avg": last[4] ?? 0,
    "policy/approxkl_avg": last[5] ?? 0,
    "val/ratio": last[6] ?? 0,
    "val/clipfrac_avg": last[7] ?? 0,
    "val/var_explained": 1 - variance(residual) / Math.max(1e-12, variance(returns)),
    "val/num_eos_tokens": responses.filter((r) => !r.generation.truncated).length,
    // Mean |log p(scored) - log p(sampled)| of a token: what sampling's kernels and scoring's differ by. It does not enter the ratio.
    "rollout/logprob_gap": total(responses.map(gap)) / count,
    "response_length/mean": count / responses.length,
    "response_length/clip_ratio": mean((r) => (r.generation.truncated ? 1 : 0)),
    grad_norm: input.gradNorm,
    lr: input.config.lr,
    episode: input.step * responses.length
  }
}
