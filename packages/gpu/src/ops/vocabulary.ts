/**
 * Launches over the vocabulary: log-probabilities with entropy and KL, sampling, and the step of decoding. As in layer.ts, a row is
 * reduced by a workgroup on hardware and by an invocation on drivers that compute on the CPU.
 */
import type { AdapterInfo } from "../Gpu.ts"
import { grid1d, type Tape } from "../Tape.ts"
import type { Tensor } from "../Tensor.ts"
import { byRows, fits, groupSize } from "./layer.ts"

type F = Tensor<"f32">
type U = Tensor<"u32">

export const makeVocabularyOps = (info: AdapterInfo) => {
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
      tape.require(x.temperature > 0, "log_softmax", `temperature ${x.temperature} must be positive`)
      fits(tape, "log_softmax", [
        ["logits", x.logits, x.rows * x.cols],
        ["refLogits", x.refLogits, x.rows * x.cols],
        ["target", x.target, x.rows],
        ["state", x.state, 5 * x.rows]
      ])
      const bindings = {
        logits: x.logits,
        ref_logits: x.refLogits ?? x.logits,
        row_target: x.target,
        state: x.state
      }
      const params = { rows: x.rows, cols: x.cols, offset: x.offset, inv_temperature: 1 / x.temperature }
      const WITH_REF = x.refLogits ? 1 : 0
      if (info.software) tape.dispatch("log_softmax_forward", bindings, params, grid(x.rows), { WG, WITH_REF })
      else tape.dispatch("log_softmax_forward_workgroup", bindings, params, grid1d(x.rows, 1), { WITH_REF })
    },
    /** out [rows, 4] = log-probability, entropy, log-sum-exp, KL to the reference. */
    logSoftmaxFinish(tape: Tape, x: { state: F; refOut?: F; out: F; rows: number }): void {
      fits(tape, "log_softmax_finish", [
        ["state", x.state, 5 * x.rows],
        ["refOut", x.refOut, 4 * x.rows],
        ["out", x.out, 4 * x.rows]
      ])
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
      tape.require(x.temperature > 0, "log_softmax_backward", `temperature ${x.temperature} must be positive`)
      tape.require(
        (x.refLogits === undefined) === (x.refOut === undefined),
        "log_softmax_backward",
        "refLogits and refOut go together"
      )
      fits(tape, "log_softmax_backward", [
        ["logits", x.logits, x.rows * x.cols],
        ["refLogits", x.refLogits, x.rows * x.cols],
        ["target", x.target, x.rows],
        ["out", x.out, 4 * x.rows],
        ["refOut", x.refOut, 4 * x.rows],
        ["grad", x.grad, 3 * x.rows]
      ])
      const row = byRows(info, x.rows, x.cols)
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
        { rows: x.rows, cols: x.cols, offset: x.offset, inv_temperature: 1 / x.temperature, span: row.span },
        row.grid,
        { ...row.constants, WITH_REF: x.refLogits ? 1 : 0 }
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
      fits(tape, "sample_top_p", [
        ["logits", x.logits, x.rows * x.vocab],
        ["stream", x.stream, x.rows],
        ["position", x.position, x.rows],
        ["token", x.token, x.rows],
        ["out", x.out, 2 * x.rows]
      ])
      const bindings = { logits: x.logits, stream: x.stream, position: x.position, token: x.token, out: x.out }
      const params = {
        rows: x.rows,
        vocab: x.vocab,
        inv_temperature: x.temperature > 0 ? 1 / x.temperature : 0,
        top_p: x.topP,
        seed: x.seed >>> 0
      }
      if (info.software) tape.dispatch("sample_top_p", bindings, params, grid(x.rows), { WG })
      else tape.dispatch("sample_top_p_workgroup", bindings, params, grid1d(x.rows, 1))
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
      fits(tape, "decode_advance", [
        ["token", x.token, x.rows],
        ["sampled", x.sampled, 2 * x.rows],
        ["slot", x.slot, x.rows],
        ["position", x.position, x.rows],
        ["kvRow", x.kvRow, x.rows],
        ["kvEnd", x.kvEnd, x.rows]
      ])
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
