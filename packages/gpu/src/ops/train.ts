/** Launches of the losses, the reinforcement-learning scans and the optimiser. */
import type { AdapterInfo } from "../Gpu.ts"
import { grid1d, type Tape } from "../Tape.ts"
import type { Tensor } from "../Tensor.ts"
import { groupSize } from "./layer.ts"

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
    /** Folds one vocabulary chunk (columns `offset`…) into state [rows, 5]. `refLogits` adds the KL sum. */
    logSoftmaxChunk(
      tape: Tape,
      x: {
        logits: F
        refLogits?: F
        target: U
        state: F
        rows: number
        cols: number
        offset: number
        temperature: number
      }
    ): void {
      tape.dispatch(
        "log_softmax_forward",
        { logits: x.logits, ref_logits: x.refLogits ?? x.logits, row_target: x.target, state: x.state },
        { rows: x.rows, cols: x.cols, offset: x.offset, inv_temperature: 1 / x.temperature },
        grid(x.rows),
        { WG, WITH_REF: x.refLogits ? 1 : 0 }
      )
    },
    /** out [rows, 4] = log-probability, entropy, log-sum-exp, KL to the reference. */
    logSoftmaxFinish(tape: Tape, x: { state: F; refOut?: F; out: F; rows: number }): void {
      tape.dispatch(
        "log_softmax_finish",
        { state: x.state, ref_out: x.refOut ?? x.state, out: x.out },
        { rows: x.rows },
        grid(x.rows),
        { WG, WITH_REF: x.refOut ? 1 : 0 }
      )
    },
    /** Turns a chunk of logits into its gradient in place; grad [rows, 3] for log-probability, entropy and KL. */
    logSoftmaxBackward(
      tape: Tape,
      x: {
        logits: F
        refLogits?: F
        target: U
        out: F
        refOut?: F
        grad: F
        rows: number
        cols: number
        offset: number
        temperature: number
      }
    ): void {
      tape.dispatch(
        "log_softmax_backward",
        {
          logits: x.logits,
          ref_logits: x.refLogits ?? x.grad,
          row_target: x.target,
          out: x.out,
          ref_out: x.refOut ?? x.out,
          grad: x.grad
        },
        { rows: x.rows, cols: x.cols, offset: x.offset, inv_temperature: 1 / x.temperature },
        grid(x.rows * x.cols),
        { WG, WITH_REF: x.refLogits ? 1 : 0 }
      )
    },
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
      tape.dispatch(
        "value_head_backward",
        { d_value: x.dValue, w: x.w, dh: x.dh },
        { rows, dim, accumulate: x.accumulate ? 1 : 0 },
        grid(rows * dim),
        { WG }
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
    /** Zeroes the off-diagonal blocks of a grouped adapter gradient db [rows, groups * rank]; `ends` are the groups' last rows. */
    loraMask(tape: Tape, x: { db: F; rows: number; rank: number; ends: ReadonlyArray<number> }): void {
      if (x.ends.length < 2) return
      tape.dispatch(
        "lora_mask",
        { db: x.db },
        { rows: x.rows, rank: x.rank, groups: x.ends.length, end0: x.ends[0] ?? x.rows, end1: x.ends[1] ?? x.rows },
        grid(x.rows * x.ends.length * x.rank),
        { WG }
      )
    },
    /** Bradley–Terry loss of score [2 pairs] (chosen, rejected alternating); metric [pairs, 2]. */
    pairwiseLoss(tape: Tape, x: { score: F; dScore: F; metric: F; pairs: number }): void {
      tape.dispatch(
        "pairwise_loss_forward_backward",
        { score: x.score, d_score: x.dScore, metric: x.metric },
        { pairs: x.pairs },
        grid(x.pairs),
        { WG }
      )
    },
    /** out [3] = clip scale, gradient norm, not-finite flag over n gradients; `partial` holds 2 ceil(n / 512) elements. */
    gradNorm(tape: Tape, x: { g: F; partial: F; out: F; n: number; clip: number }): void {
      const blocks = Math.ceil(x.n / normBlock)
      tape.require(x.partial.length >= 2 * blocks, "grad_norm", `partial holds ${x.partial.length} of ${2 * blocks}`)
      tape.dispatch("grad_norm_partial", { g: x.g, partial: x.partial }, { n: x.n, block: normBlock }, grid(blocks), {
        WG
      })
      tape.dispatch("grad_norm_finish", { partial: x.partial, out: x.out }, { blocks, clip: x.clip }, [1])
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
        grid(x.n),
        { WG }
      )
    },
    /** Samples one token a row; overwrites logits. temperature 0 is greedy. */
    sampleTopP(
      tape: Tape,
      x: {
        logits: F
        stream: U
        position: U
        token: U
        out: F
        rows: number
        vocab: number
        temperature: number
        topP: number
        seed: number
      }
    ): void {
      tape.dispatch(
        "sample_top_p",
        { logits: x.logits, stream: x.stream, position: x.position, token: x.token, out: x.out },
        {
          rows: x.rows,
          vocab: x.vocab,
          inv_temperature: x.temperature > 0 ? 1 / x.temperature : 0,
          top_p: x.topP,
          seed: x.seed >>> 0
        },
        grid(x.rows),
        { WG }
      )
    },
    /** Records sampled tokens in the slots' history and moves the rows on. */
    decodeAdvance(
      tape: Tape,
      x: {
        token: U
        sampled: F
        slot: U
        position: U
        kvRow: U
        kvEnd: U
        history: U
        historyLogp: F
        rows: number
        capacity: number
        step: number
        endToken: number
      }
    ): void {
      tape.dispatch(
        "decode_advance",
        {
          token: x.token,
          sampled: x.sampled,
          slot: x.slot,
          position: x.position,
          kv_row: x.kvRow,
          kv_end: x.kvEnd,
          history: x.history,
          history_logp: x.historyLogp
        },
        { rows: x.rows, capacity: x.capacity, step: x.step, end_token: x.endToken },
        grid(x.rows),
        { WG }
      )
    }
  }
}
