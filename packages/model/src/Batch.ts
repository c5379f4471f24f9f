/**
 * A packed batch: sequences of any length laid end to end, no padding. Row n of every activation is token n.
 *
 * Attention is block-diagonal through each row's own key range, so packing never mixes neighbours. `loss` rows are the
 * positions whose *next* token is predicted: the state before it carries its log-probability and its value.
 */

import { Gpu, type GpuError, type Tensor } from "@srcode/gpu"
import { Effect, type Scope } from "effect"

export interface Sequence {
  readonly ids: ArrayLike<number>
  /** Positions t ≥ 1 of the sequence whose token carries loss (predicted from t - 1); default: none. */
  readonly loss?: (t: number) => boolean
}

/** The packed indices on the host; all arrays have exactly the needed length. */
export interface PackedIndices {
  readonly rows: number
  readonly ids: Uint32Array<ArrayBuffer>
  readonly position: Uint32Array<ArrayBuffer>
  readonly kvStart: Uint32Array<ArrayBuffer>
  readonly kvEnd: Uint32Array<ArrayBuffer>
  readonly qEnd: Uint32Array<ArrayBuffer>
  readonly kvRow: Uint32Array<ArrayBuffer>
  /** Rows that carry loss, ascending, and the token each predicts. */
  readonly lossRow: Uint32Array<ArrayBuffer>
  readonly target: Uint32Array<ArrayBuffer>
  /** Where each sequence's loss rows begin in `lossRow`; one entry more than sequences. */
  readonly lossFirst: Uint32Array<ArrayBuffer>
}

/** Lays sequences end to end. Empty sequences are allowed and take no rows. */
export const packSequences = (sequences: ReadonlyArray<Sequence>): PackedIndices => {
  const rows = sequences.reduce((sum, s) => sum + s.ids.length, 0)
  const u32 = () => new Uint32Array(rows)
  const [ids, position, kvStart, kvEnd, qEnd, kvRow] = [u32(), u32(), u32(), u32(), u32(), u32()]
  const lossRow: Array<number> = []
  const target: Array<number> = []
  const lossFirst: Array<number> = [0]
  let at = 0
  for (const { ids: own, loss } of sequences) {
    const first = at
    for (let t = 0; t < own.length; t++, at++) {
      ids[at] = own[t] ?? 0
      position[at] = t
      kvStart[at] = first
      kvEnd[at] = at + 1
      qEnd[at] = first + own.length
      kvRow[at] = at
      if (t + 1 < own.length && loss?.(t + 1) === true) {
        lossRow.push(at)
        target.push(own[t + 1] ?? 0)
      }
    }
    lossFirst.push(lossRow.length)
  }
  return {
    rows,
    ids,
    position,
    kvStart,
    kvEnd,
    qEnd,
    kvRow,
    lossRow: Uint32Array.from(lossRow),
    target: Uint32Array.from(target),
    lossFirst: Uint32Array.from(lossFirst)
  }
}

/** The indices on the device, with room for `capacity` rows. */
export interface BatchBuffers {
  readonly capacity: number
  readonly ids: Tensor<"u32">
  readonly position: Tensor<"u32">
  readonly kvStart: Tensor<"u32">
  readonly kvEnd: Tensor<"u32">
  readonly qEnd: Tensor<"u32">
  readonly kvRow: Tensor<"u32">
  readonly lossRow: Tensor<"u32">
  readonly target: Tensor<"u32">
  /** CSR of the inverse of `lossRow`: which loss row, if any, stands at each row. */
  readonly lossStart: Tensor<"u32">
  readonly lossOrder: Tensor<"u32">
}

export const allocBatch = (capacity: number): Effect.Effect<BatchBuffers, GpuError, Gpu | Scope.Scope> =>
  Effect.gen(function* () {
    const gpu = yield* Gpu
    const u32 = (label: string, length = capacity) => gpu.alloc(`batch.${label}`, "u32", length)
    return {
      capacity,
      ids: yield* u32("ids"),
      position: yield* u32("position"),
      kvStart: yield* u32("kv_start"),
      kvEnd: yield* u32("kv_end"),
      qEnd: yield* u32("q_end"),
      kvRow: yield* u32("kv_row"),
      lossRow: yield* u32("loss_row"),
      target: yield* u32("target"),
      lossStart: yield* u32("loss_start", capacity + 1),
      lossOrder: yield* u32("loss_order")
    }
  })

/** A batch ready for the device: indices uploaded, with the two counts that shape every dispatch. */
export interface Batch extends BatchBuffers {
  readonly rows: number
  /** The most rows that passes of this kind ever have, where that is few: products then take kernels that are good for few rows. */
  readonly mostRows?: number
  readonly lossRows: number
}

export const uploadBatch = Effect.fnUntraced(function* (buffers: BatchBuffers, packed: PackedIndices) {
  const gpu = yield* Gpu
  const lossStart = new Uint32Array(packed.rows + 1)
  for (const row of packed.lossRow) lossStart[row + 1] = 1
  for (let i = 0; i < packed.rows; i++) lossStart[i + 1] = (lossStart[i + 1] ?? 0) + (lossStart[i] ?? 0)
  yield* gpu.write(buffers.ids, packed.ids)
  yield* gpu.write(buffers.position, packed.position)
  yield* gpu.write(buffers.kvStart, packed.kvStart)
  yield* gpu.write(buffers.kvEnd, packed.kvEnd)
  yield* gpu.write(buffers.qEnd, packed.qEnd)
  yield* gpu.write(buffers.kvRow, packed.kvRow)
  yield* gpu.write(buffers.lossStart, lossStart)
  if (packed.lossRow.length > 0) {
    yield* gpu.write(buffers.lossRow, packed.lossRow)
    yield* gpu.write(buffers.target, packed.target)
    yield* gpu.write(
      buffers.lossOrder,
      Uint32Array.from(packed.lossRow, (_, i) => i)
    )
  }
  const batch: Batch = { ...buffers, rows: packed.rows, lossRows: packed.lossRow.length }
  return batch
})
