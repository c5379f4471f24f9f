/**
 * Launches over the vocabulary: log-probabilities with entropy and KL, and sampling. As in layer.ts, a row is
 * reduced by a workgroup on hardware and by an invocation on drivers that compute on the CPU.
 */
import type { AdapterInfo } from "../Gpu.ts"
import { grid1d, type Tape } from "../Tape.ts"
import type { Tensor } from "../Tensor.ts"
import { byRows, fits, groupSize } from "./layer.ts"

type F = Tensor<"f32">
type U = Tensor<"u32">

/** Words of one row's sampling settings: temperature, top-p, min-p (f32 bits), top-k, seed, stream, and two unused. */
export const sampleSettings = 8

/** Bytes of workgroup memory that drawing takes for each lane. */
const drawBytes = 40

/** Lanes that draw one row's token: a row has the vocabulary to read several times over, so as many as there may be; few where barriers are dear. */
const drawLanes = (info: AdapterInfo): number => {
  if (info.software) return 8
  const { maxComputeInvocationsPerWorkgroup: most = 256, maxComputeWorkgroupStorageSize: bytes = 16384 } = info.limits
  return 2 ** Math.floor(Math.log2(Math.min(1024, most, bytes / drawBytes)))
}

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
    /**
     * Draws one token a row under the row's own settings [rows, `sampleSettings`] (see kernels/sample/README.md); overwrites logits. out [3, stride]
     * holds tokens, then the bits of their log-probabilities, then of the masses kept by the filters.
     */
    sample(
      tape: Tape,
      x: { logits: F; settings: U; position: U; out: U; rows: number; vocab: number; stride: number }
    ): void {
      fits(tape, "sample", [
        ["logits", x.logits, x.rows * x.vocab],
        ["settings", x.settings, x.rows * sampleSettings],
        ["position", x.position, x.rows],
        ["out", x.out, 2 * x.stride + x.rows]
      ])
      const bindings = { logits: x.logits, settings: x.settings, position: x.position, out: x.out }
      const params = { rows: x.rows, vocab: x.vocab, stride: x.stride }
      tape.dispatch("sample_draw", bindings, params, grid1d(x.rows, 1), { WG: drawLanes(info) })
    }
  }
}
