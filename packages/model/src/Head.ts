/**
 * The language-model head, fused with log-softmax, gather, entropy and KL: logits exist only for rows that carry loss
 * and only for one vocabulary chunk at a time. Backward recomputes each chunk.
 */

import {
  denseTensor,
  Gpu,
  type GpuError,
  type Matrix,
  matrixRows,
  type Ops,
  type Tape,
  type Tensor,
  window
} from "@srcode/gpu"
import { Effect, type Scope } from "effect"
import type { Batch } from "./Batch.ts"
import type { ModelConfig } from "./Config.ts"
import type { HeadElements, HeadScratch } from "./Workspace.ts"

type F = Tensor<"f32">

export interface HeadWorkspace {
  readonly capacity: number
  /** Columns of a chunk, a multiple of 64 and less than the vocabulary. */
  readonly chunk: number
  readonly logits: F
  readonly refLogits: F | null
  readonly state: F // [rows, 5]
  /** [rows, 4]: log-probability, entropy (nats), log-sum-exp, KL to the reference (nats). */
  readonly scored: F
  readonly refState: F | null
  readonly refScored: F | null
  /** Final states of the loss rows, and the reference's. */
  readonly selected: F
  readonly refSelected: F | null
  /** [rows, 3]: gradients for log-probability, entropy, KL. */
  readonly grad: F
  readonly dSelected: F
}

/** Elements a chunk of logits may take. */
const chunkBudget = 1 << 22

export interface HeadOptions {
  readonly capacity: number
  readonly reference: boolean
}

/** Columns of a chunk for so many rows. */
const chunkOf = (config: ModelConfig, capacity: number): number => {
  const half = Math.ceil(config.vocabSize / 2 / 64) * 64
  return Math.max(64, Math.min(half, Math.floor(chunkBudget / capacity / 64) * 64))
}

/** What the head needs between forward and backward only: a workspace can lay it over its own buffers (`options.head`). */
export const headElements = (config: ModelConfig, { capacity, reference }: HeadOptions): HeadElements => {
  const logits = capacity * chunkOf(config, capacity)
  const states = capacity * config.hiddenSize
  return { logits, ...(reference ? { refLogits: logits } : {}), selected: states, dSelected: states }
}

/** Allocates the head's buffers; `scratch` gives those of `headElements` from a workspace. */
export const allocHead = (
  config: ModelConfig,
  options: HeadOptions & { readonly scratch?: HeadScratch }
): Effect.Effect<HeadWorkspace, GpuError, Gpu | Scope.Scope> =>
  Effect.gen(function* () {
    const gpu = yield* Gpu
    const n = options.capacity
    const C = config.hiddenSize
    const chunk = chunkOf(config, n)
    const { logits, refLogits, selected, dSelected } = options.scratch ?? {}
    const f32 = (label: string, length: number) => gpu.alloc(`head.${label}`, "f32", length)
    const maybe = (label: string, length: number) => (options.reference ? f32(label, length) : Effect.succeed(null))
    return {
      capacity: n,
      chunk,
      logits: logits ?? (yield* f32("logits", n * chunk)),
      refLogits: refLogits ?? (yield* maybe("ref_logits", n * chunk)),
      state: yield* f32("state", n * 5),
      scored: yield* f32("scored", n * 4),
      refState: yield* maybe("ref_state", n * 5),
      refScored: yield* maybe("ref_scored", n * 4),
      selected: selected ?? (yield* f32("selected", n * C)),
      refSelected: yield* maybe("ref_selected", n * C),
      grad: yield* f32("grad", n * 3),
      dSelected: dSelected ?? (yield* f32("d_selected", n * C))
    }
  })

const chunks = (config: ModelConfig, chunk: number): ReadonlyArray<{ offset: number; cols: number }> =>
  Array.from({ length: Math.ceil(config.vocabSize / chunk) }, (_, i) => ({
    offset: i * chunk,
    cols: Math.min(chunk, config.vocabSize - i * chunk)
  }))

const logitsOf = (
  tape: Tape,
  ops: Ops,
  config: ModelConfig,
  head: Matrix,
  states: F,
  out: F,
  rows: number,
  offset: number,
  cols: number
): void =>
  ops.matmulNT(tape, {
    a: states,
    b: matrixRows(head, offset, offset + cols),
    out,
    m: rows,
    n: cols,
    k: config.hiddenSize
  })

/** Gathers the loss rows of `hidden` into `into`. */
export const selectRows = (tape: Tape, ops: Ops, config: ModelConfig, batch: Batch, hidden: F, into: F): void =>
  ops.gatherRows(tape, { table: hidden, id: batch.lossRow, out: into, rows: batch.lossRows, dim: config.hiddenSize })

/**
 * Scores the rows of `hw.refSelected` under `head` into `hw.refScored`: once a batch, before `scoreRows`. Policy and
 * reference share the head (adapters never touch it): `scoreRows` must be given the same one.
 */
export const scoreReference = (
  tape: Tape,
  ops: Ops,
  config: ModelConfig,
  head: Matrix,
  batch: Batch,
  hw: HeadWorkspace,
  temperature: number
): void => {
  if (hw.refLogits === null || hw.refState === null || hw.refScored === null || hw.refSelected === null) return
  const rows = batch.lossRows
  for (const { offset, cols } of chunks(config, hw.chunk)) {
    logitsOf(tape, ops, config, head, hw.refSelected, hw.refLogits, rows, offset, cols)
    ops.logSoftmaxChunk(tape, {
      logits: hw.refLogits,
      target: batch.target,
      state: hw.refState,
      rows,
      cols,
      offset,
      temperature
    })
  }
  ops.logSoftmaxFinish(tape, { state: hw.refState, out: hw.refScored, rows })
}

/** Scores the rows of `hw.selected` into `hw.scored`; with `withRef` also KL(policy ‖ reference), exact over the vocabulary. */
export const scoreRows = (
  tape: Tape,
  ops: Ops,
  config: ModelConfig,
  head: Matrix,
  batch: Batch,
  hw: HeadWorkspace,
  temperature: number,
  withRef: boolean
): void => {
  const rows = batch.lossRows
  const reference =
    withRef && hw.refLogits && hw.refScored && hw.refSelected
      ? { logits: hw.refLogits, scored: hw.refScored, selected: hw.refSelected }
      : null
  for (const { offset, cols } of chunks(config, hw.chunk)) {
    logitsOf(tape, ops, config, head, hw.selected, hw.logits, rows, offset, cols)
    if (reference) logitsOf(tape, ops, config, head, reference.selected, reference.logits, rows, offset, cols)
    ops.logSoftmaxChunk(tape, {
      logits: hw.logits,
      ...(reference ? { refLogits: reference.logits } : {}),
      target: batch.target,
      state: hw.state,
      rows,
      cols,
      offset,
      temperature
    })
  }
  ops.logSoftmaxFinish(tape, {
    state: hw.state,
    ...(reference ? { refOut: reference.scored } : {}),
    out: hw.scored,
    rows
  })
}

/**
 * Gradient of the scores: from `hw.grad` to `hw.dSelected` (added when `accumulate`), and to the head's weight `dHead` where given.
 */
export const scoreRowsBackward = (
  tape: Tape,
  ops: Ops,
  config: ModelConfig,
  head: Matrix,
  batch: Batch,
  hw: HeadWorkspace,
  temperature: number,
  withRef: boolean,
  options: { readonly accumulate: boolean; readonly dHead?: Matrix }
): void => {
  const rows = batch.lossRows
  const C = config.hiddenSize
  const reference =
    withRef && hw.refLogits && hw.refScored && hw.refSelected
      ? { logits: hw.refLogits, scored: hw.refScored, selected: hw.refSelected }
      : null
  for (const { offset, cols } of chunks(config, hw.chunk)) {
    logitsOf(tape, ops, config, head, hw.selected, hw.logits, rows, offset, cols)
    if (reference) logitsOf(tape, ops, config, head, reference.selected, reference.logits, rows, offset, cols)
    ops.logSoftmaxBackward(tape, {
      logits: hw.logits,
      target: batch.target,
      out: hw.scored,
      grad: hw.grad,
      rows,
      cols,
      offset,
      temperature,
      ...(reference ? { refLogits: reference.logits, refOut: reference.scored } : {})
    })
    const rowsOfHead = matrixRows(head, offset, offset + cols)
    ops.matmulNN(tape, {
      a: hw.logits,
      b: rowsOfHead,
      out: hw.dSelected,
      m: rows,
      n: C,
      k: cols,
      accumulate: options.accumulate || offset > 0
    })
    const dHead = options.dHead && denseTensor(options.dHead)
    if (dHead) {
      const into = window(dHead, offset * C, cols * C, "d_head")
      ops.matmulTN(tape, { a: hw.logits, b: hw.selected, out: into, m: cols, n: C, k: rows, accumulate: true })
    }
  }
}

/** Spreads the gradient of the selected rows back over all rows of `dHidden`. */
export const scatterSelected = (
  tape: Tape,
  ops: Ops,
  config: ModelConfig,
  batch: Batch,
  dSelected: F,
  dHidden: F
): void =>
  ops.scatterRows(tape, {
    dy: dSelected,
    start: batch.lossStart,
    order: batch.lossOrder,
    dtable: dHidden,
    rows: batch.rows,
    dim: config.hiddenSize,
    accumulate: false
  })
