/**
 * Launches of the matrix-unit attention kernels: which tile sizes fit a device, and their grids. Bits depend on the device
 * and the head size, never on the rows.
 */
import type { AdapterInfo } from "../Gpu.ts"
import type { Grid } from "../Kernel.ts"
import { maxGroups, type Tape } from "../Tape.ts"
import { type Backward, delta, type Forward } from "./flash.ts"
import type { HeadShape } from "./layer.ts"

/** SGS subgroups of 16 lines (keys) in a role; steps of 16 KT keys (lines). */
export interface MatrixTile {
  readonly SGS: number
  readonly KT: number
}

/** Bytes of workgroup memory and lanes of one kernel: scores in floats and weights in halves, operands, what a line carries. */
const needs = (kernel: "forward" | "query" | "keyValue", headDim: number, { SGS, KT }: MatrixTile) => {
  const [owned, block] = [16 * SGS, 16 * KT]
  const [head, floats, halves] = [headDim / 8 + 1, 4 * KT + 1, 2 * KT + 1]
  const units =
    kernel === "forward"
      ? block * head + owned * (floats + halves)
      : 2 * block * head + owned * (2 * floats + (kernel === "query" ? 1 : 2) * halves)
  const own = kernel === "forward" ? 8 * 32 * SGS + 8 * owned : kernel === "query" ? 20 * owned : 16 * block + 4
  return { bytes: 16 * (units + head + floats + halves) + own, threads: (kernel === "forward" ? 32 : 64) * SGS }
}

/** From the largest. Larger steps mean fewer barriers; the backward kernels hold two operands, so theirs are smaller. */
const forwardTiles: ReadonlyArray<MatrixTile> = [
  { SGS: 4, KT: 2 },
  { SGS: 4, KT: 1 },
  { SGS: 2, KT: 1 },
  { SGS: 1, KT: 1 }
]
const backwardTiles = forwardTiles.slice(1)

/** The tiles of the three kernels on this device, or undefined where one of them cannot run. */
export const matrixTiles = (info: AdapterInfo, headDim: number) => {
  const [low, high] = info.subgroupSize
  const features = ["shader-f16", "subgroups", "subgroup-size-control", "chromium-experimental-subgroup-matrix"]
  const able =
    features.every((f) => info.features.includes(f)) &&
    low <= 32 &&
    high >= 32 &&
    info.subgroupMatrixConfigs.some(
      (c) => c.componentType === "f16" && c.resultComponentType === "f32" && c.M === 16 && c.N === 16 && c.K === 16
    )
  if (!able || headDim % 32 !== 0 || headDim > 128) return undefined
  const [memory, lanes] = [
    info.limits.maxComputeWorkgroupStorageSize ?? 16384,
    info.limits.maxComputeInvocationsPerWorkgroup ?? 256
  ]
  const largest = (kernel: "forward" | "query" | "keyValue", tiles: ReadonlyArray<MatrixTile>) =>
    tiles.find((t) => {
      const { bytes, threads } = needs(kernel, headDim, t)
      return bytes <= memory && threads <= lanes
    })
  const forward = largest("forward", forwardTiles)
  const query = largest("query", backwardTiles)
  const keyValue = largest("keyValue", backwardTiles)
  return forward && query && keyValue ? { forward, query, keyValue } : undefined
}

export const matrixFits = (info: AdapterInfo, x: HeadShape): boolean =>
  matrixTiles(info, x.headDim) !== undefined &&
  x.kvHeads <= maxGroups &&
  (x.rows * x.heads) / x.kvHeads / 16 < maxGroups

const named = (x: HeadShape) => ({
  rows: x.rows,
  heads: x.heads,
  kv_heads: x.kvHeads,
  scale: 1 / Math.sqrt(x.headDim)
})

const constants = (x: HeadShape, { SGS, KT }: MatrixTile) => ({ DK: x.headDim / 16, KT, SGS, PIECES: SGS / KT })

const byLines = (x: HeadShape, t: MatrixTile): Grid => [
  Math.ceil((x.rows * (x.heads / x.kvHeads)) / (16 * t.SGS)),
  x.kvHeads
]

export const matrixForward = (info: AdapterInfo, tape: Tape, x: Forward): void => {
  const tile = matrixTiles(info, x.headDim)?.forward
  if (tile === undefined) return
  const bindings = { q: x.q, k: x.k, v: x.v, kv_start: x.kvStart, kv_end: x.kvEnd, o: x.o, stat: x.stat }
  tape.dispatch("attention_forward_matrix", bindings, named(x), byLines(x, tile), constants(x, tile))
}

export const matrixBackward = (info: AdapterInfo, tape: Tape, x: Backward): void => {
  const tiles = matrixTiles(info, x.headDim)
  if (tiles === undefined) return
  const common = { q: x.q, k: x.k, v: x.v, d_o: x.dO, stat: x.stat }
  delta(tape, x)
  const query = { ...common, kv_start: x.kvStart, dq: x.dq }
  const HALF = x.headDim / 32
  const ofQuery = { ...constants(x, tiles.query), HALF }
  tape.dispatch("attention_backward_query_matrix", query, named(x), byLines(x, tiles.query), ofQuery)
  const keyValue = { ...common, q_end: x.qEnd, dk: x.dk, dv: x.dv }
  const grid: Grid = [Math.ceil(x.rows / (16 * tiles.keyValue.SGS)), x.kvHeads]
  tape.dispatch("attention_backward_key_value_matrix", keyValue, named(x), grid, constants(x, tiles.keyValue))
}
