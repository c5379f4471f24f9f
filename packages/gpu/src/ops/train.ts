/** Launches of the losses, the reinforcement-learning scans and the optimiser. */
import type { AdapterInfo } from "../Gpu.ts"
import { grid1d, type Tape } from "../Tape.ts"
import type { Tensor } from "../Tensor.ts"
import { byRows, fits, groupSize } from "./layer.ts"

type F = Tensor<"f32">
type U = Tensor<"u32">

/** Elements per partial sum of the gradient norm. */
export const normBlock = 512

/** How the policy ratio is limited; see kernels/ppo_loss/README.md. */
export type PolicyLossKind = "clip" | "dualClip" | "cispo" | "sapo"
const kindCode: Record<PolicyLossKind, number> = { clip: 0, dualClip: 1, cispo: 2, sapo: 3 }

export interface PpoLossParams {
  readonly kind: PolicyLossKind
  readonly clipLow: number
  readonly clipHigh: number
  readonly valueClip: number
  readonly valueCoef: number
  readonly entropyCoef: number
  readonly klCoef: number
  readonly dualClip: number
  readonly tauPositive: number
  readonly tauNegative: number
}

export const makeTrainOps = (info: AdapterInfo) => {
  const WG = groupSize(info)
  const grid = (count: number) => grid1d(count, WG)
  return {
    /** Advantages and returns of packed sequences; `first` [sequences + 1], `bootstrap` [sequences]. */
    gae(
      tape: Tape,
      x: {
        reward: F
        value: F
        first: U
        bootstrap: F
        advantage: F
        returns: F
        sequences: number
        gamma: number
        lambda: number
      }
    ): void {
      fits(tape, "gae", [
        ["first", x.first, x.sequences + 1],
        ["bootstrap", x.bootstrap, x.sequences]
      ])
      tape.dispatch(
        "gae_forward",
        {
          reward: x.reward,
          value: x.value,
          first: x.first,
          bootstrap: x.bootstrap,
          advantage: x.advantage,
          returns: x.returns
        },
        { sequences: x.sequences, gamma: x.gamma, lambda: x.lambda },
        grid(x.sequences),
        { WG }
      )
    },
    /** Masked whitening over all n tokens. */
    whiten(tape: Tape, x: { x: F; mask: U; y: F; n: number }): void {
      fits(tape, "whiten", [
        ["x", x.x, x.n],
        ["mask", x.mask, x.n],
        ["y", x.y, x.n]
      ])
      tape.dispatch("whiten_forward", { x: x.x, mask: x.mask, y: x.y }, { n: x.n }, [1])
    },
    /** Loss, gradients and per-token metrics [n, 8] of PPO; old [n, 2] = log-probability and value when sampled; all scaled by 1 / `count` (default n). */
    ppoLoss(
      tape: Tape,
      x: {
        scored: F
        old: F
        advantage: F
        value: F
        returns: F
        grad: F
        dValue: F
        metric: F
        n: number
        count?: number
        params: PpoLossParams
      }
    ): void {
      const q = x.params
      fits(tape, "ppo_loss", [
        ["scored", x.scored, 4 * x.n],
        ["old", x.old, 2 * x.n],
        ["advantage", x.advantage, x.n],
        ["value", x.value, x.n],
        ["returns", x.returns, x.n],
        ["grad", x.grad, 3 * x.n],
        ["dValue", x.dValue, x.n],
        ["metric", x.metric, 8 * x.n]
      ])
      tape.dispatch(
        "ppo_loss_forward_backward",
        {
          scored: x.scored,
          old: x.old,
          advantage: x.advantage,
          value: x.value,
          returns: x.returns,
          grad: x.grad,
          d_value: x.dValue,
          metric: x.metric
        },
        {
          n: x.n,
          inv_count: 1 / (x.count ?? x.n),
          clip_low: q.clipLow,
          clip_high: q.clipHigh,
          value_clip: q.valueClip,
          value_coef: q.valueCoef,
          entropy_coef: q.entropyCoef,
          kl_coef: q.klCoef,
          dual_clip: q.dualClip,
          tau_positive: q.tauPositive,
          tau_negative: q.tauNegative
        },
        grid(x.n),
        { WG, KIND: kindCode[q.kind] }
      )
    },
    /** value [rows] = h [rows, dim] · w + b; w holds dim weights and the bias. */
    valueHead(tape: Tape, x: { h: F; w: F; value: F; rows: number; dim: number }): void {
      fits(tape, "value_head", [
        ["h", x.h, x.rows * x.dim],
        ["w", x.w, x.dim + 1],
        ["value", x.value, x.rows]
      ])
      tape.dispatch(
        "value_head_forward",
        { h: x.h, w: x.w, value: x.value },
        { rows: x.rows, dim: x.dim },
        grid(x.rows),
        { WG }
      )
    },
    /** dh (+)= dValue ⊗ w and, when `dw` is given, dw [dim + 1] += the head's gradient. */
    valueHeadBackward(
      tape: Tape,
      x: { dValue: F; h: F; w: F; dh: F; dw?: F; rows: number; dim: number; accumulate: boolean }
    ): void {
      const { rows, dim } = x
      fits(tape, "value_head_backward", [
        ["dValue", x.dValue, rows],
        ["h", x.h, rows * dim],
        ["w", x.w, dim],
        ["dh", x.dh, rows * dim],
        ["dw", x.dw, dim + 1]
      ])
      const row = byRows(info, rows, dim)
      tape.dispatch(
        "value_head_backward",
        { d_value: x.dValue, w: x.w, dh: x.dh },
        { rows, dim, span: row.span, accumulate: x.accumulate ? 1 : 0 },
        row.grid,
        row.constants
      )
      if (x.dw)
        tape.dispatch(
          "value_head_backward_weight",
          { d_value: x.dValue, h: x.h, dw: x.dw },
          { rows, dim },
          grid(dim + 1),
          { WG }
        )
    },
    /** Bradley–Terry loss of score [2 pairs] (chosen, rejected alternating); metric [pairs, 2]; all scaled by 1 / `count` (default pairs). */
    pairwiseLoss(tape: Tape, x: { score: F; dScore: F; metric: F; pairs: number; count?: number }): void {
      fits(tape, "pairwise_loss", [
        ["score", x.score, 2 * x.pairs],
        ["dScore", x.dScore, 2 * x.pairs],
        ["metric", x.metric, 2 * x.pairs]
      ])
      tape.dispatch(
        "pairwise_loss_forward_backward",
        { score: x.score, d_score: x.dScore, metric: x.metric },
        { pairs: x.pairs, inv_count: 1 / (x.count ?? x.pairs) },
        grid(x.pairs),
        { WG }
      )
    },
    /** out [3] = clip scale, gradient norm, not-finite flag over n gradients; `partial` holds 2 ceil(n / 512) elements. */
    gradNorm(tape: Tape, x: { g: F; partial: F; out: F; n: number; clip: number }): void {
      const blocks = Math.ceil(x.n / normBlock)
      fits(tape, "grad_norm", [
        ["g", x.g, x.n],
        ["partial", x.partial, 2 * blocks],
        ["out", x.out, 3]
      ])
      tape.dispatch("grad_norm_partial", { g: x.g, partial: x.partial }, { n: x.n, block: normBlock }, grid(blocks), {
        WG
      })
      tape.dispatch(
        info.software ? "grad_norm_finish" : "grad_norm_finish_workgroup",
        { partial: x.partial, out: x.out },
        { blocks, clip: x.clip },
        [1]
      )
    },
    /** One AdamW update; `step` counts from 1. */
    adamw(
      tape: Tape,
      x: {
        w: F
        g: F
        m: F
        v: F
        clip: F
        n: number
        step: number
        lr: number
        beta1: number
        beta2: number
        eps: number
        weightDecay: number
      }
    ): void {
      fits(tape, "adamw", [
        ["w", x.w, x.n],
        ["g", x.g, x.n],
        ["m", x.m, x.n],
        ["v", x.v, x.n],
        ["clip", x.clip, 3]
      ])
      const [lanes, EACH] = info.software ? [32, 16] : [64, 4]
      tape.dispatch(
        "adamw_forward",
        { w: x.w, g: x.g, m: x.m, v: x.v, clip: x.clip },
        {
          n: x.n,
          lr: x.lr,
          beta1: x.beta1,
          beta2: x.beta2,
          eps: x.eps,
          weight_decay: x.weightDecay,
          rest1: 1 - x.beta1,
          rest2: 1 - x.beta2,
          correction1: 1 - x.beta1 ** x.step,
          correction2: 1 - x.beta2 ** x.step
        },
        grid1d(x.n, lanes * EACH),
        { WG: lanes, EACH }
      )
    }
  }
}
