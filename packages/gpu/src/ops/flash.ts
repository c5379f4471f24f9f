/**
 * Launches of attention in scalar tiles (those on matrix units: flashMatrix.ts). Which variant a shape gets is decided in
 * attention.ts. A tile is of lines, pairs (row, head of one kv head), so grouped heads share what is loaded.
 */
import type { AdapterInfo } from "../Gpu.ts"
import type { Grid } from "../Kernel.ts"
import { grid1d, maxGroups, type Tape } from "../Tape.ts"
import type { Tensor } from "../Tensor.ts"
import type { HeadShape } from "./layer.ts"

type F = Tensor<"f32">
type U = Tensor<"u32">

export type Forward = HeadShape & { q: F; k: F; v: F; kvStart: U; kvEnd: U; o: F; stat: F }
export type Backward = HeadShape & {
  q: F
  k: F
  v: F
  o: F
  dO: F
  stat: F
  kvStart: U
  qEnd: U
  dq: F
  dk: F
  dv: F
}

/** Bindings and scalars under the names of the kernels. */
const named = (x: HeadShape) => ({
  rows: x.rows,
  heads: x.heads,
  kv_heads: x.kvHeads,
  scale: 1 / Math.sqrt(x.headDim),
  quads: x.headDim / 4
})

/** Lanes across and down of a scalar tile; 4 lines a lane, 2 keys. */
const [TX, TY, PER] = [16, 8, 2] as const

const tiles = (x: HeadShape, size: number): Grid => [Math.ceil((x.rows * (x.heads / x.kvHeads)) / size), x.kvHeads]

/** Whether the scalar tiles run here: 128 lanes, 16 KiB of workgroup memory, a grid within bounds. */
export const flashFits = (info: AdapterInfo, x: HeadShape): boolean =>
  (info.limits.maxComputeInvocationsPerWorkgroup ?? 256) >= TX * TY &&
  (info.limits.maxComputeWorkgroupStorageSize ?? 16384) >= 16384 &&
  x.kvHeads <= maxGroups &&
  (x.rows * x.heads) / x.kvHeads / (4 * TY) < maxGroups

/** Constants of a scalar tile: a longer piece of each head is staged at a time where there is room; the bits are the same. */
const tile = (info: AdapterInfo, x: HeadShape) => {
  const CHUNK = (info.limits.maxComputeWorkgroupStorageSize ?? 16384) >= 40960 ? 8 : 4
  return { TX, TY, PER, OWN: Math.ceil(x.headDim / 4 / TX), CHUNK }
}

export const flashForward = (info: AdapterInfo, tape: Tape, x: Forward): void => {
  const bindings = { q: x.q, k: x.k, v: x.v, kv_start: x.kvStart, kv_end: x.kvEnd, o: x.o, stat: x.stat }
  tape.dispatch("attention_forward_flash", bindings, named(x), tiles(x, 4 * TY), tile(info, x))
}

/** stat[:, :, 1] = rowsum(dO ∘ O), which the tiled backward kernels read. */
export const delta = (tape: Tape, x: Backward): void => {
  const count = x.rows * x.heads
  const bindings = { o: x.o, d_o: x.dO, stat: x.stat }
  tape.dispatch("attention_backward_delta", bindings, { count, quads: x.headDim / 4 }, grid1d(count, 64))
}

export const flashBackward = (info: AdapterInfo, tape: Tape, x: Backward): void => {
  const common = { q: x.q, k: x.k, v: x.v, d_o: x.dO, stat: x.stat }
  delta(tape, x)
  const query = { ...common, kv_start: x.kvStart, dq: x.dq }
  tape.dispatch("attention_backward_query_flash", query, named(x), tiles(x, 4 * TY), tile(info, x))
  const keyValue = { ...common, q_end: x.qEnd, dk: x.dk, dv: x.dv }
  const grid: Grid = [Math.ceil(x.rows / (4 * TY)), x.kvHeads]
  tape.dispatch("attention_backward_key_value_flash", keyValue, named(x), grid, tile(info, x))
}
