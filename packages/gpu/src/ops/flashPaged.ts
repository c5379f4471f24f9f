/**
 * Launches of attention over a paged cache in scalar tiles. Keys are cut into spans; few rows get a workgroup a span and a
 * merge in order, many rows walk through their spans themselves. Both give the same bits, so the momentary number of rows may decide.
 */
import type { AdapterInfo } from "../Gpu.ts"
import type { Grid } from "../Kernel.ts"
import { grid1d, type Tape } from "../Tape.ts"
import type { Tensor } from "../Tensor.ts"
import type { HeadShape } from "./layer.ts"

type F = Tensor<"f32">
type U = Tensor<"u32">

/** Queries and the cache that they attend to; see `attentionPaged`. */
export type Paged = HeadShape & {
  q: F
  k: F
  v: F
  pageTable: U
  maxPages: number
  slot: U
  position: U
  o: F
  partial?: F | undefined
}

/** Rows of a page of the key-value cache. */
export const pageSize = 16

/** Keys of a span. */
const SPAN = 128

/** Rows times spans that are split at most: past that there are workgroups enough. */
const splitEntries = 4096

/** Rows up to which each has a workgroup of its own: decoding, where neighbours are of other sequences. */
const decodeRows = 256

const spansOf = (maxPages: number): number => Math.ceil((maxPages * pageSize) / SPAN)

const entryLength = (x: Omit<HeadShape, "rows">): number => x.heads * (x.headDim + 4)

/**
 * Elements of the `partial` tensor for up to `rows` decoding rows over sequences of up to `maxPages` pages; 0 where the device
 * has no use for one.
 */
export const pagedPartials = (info: AdapterInfo, x: HeadShape, maxPages: number): number => {
  const spans = spansOf(maxPages)
  if (info.software || spans < 2) return 0
  const binding = Math.min(info.limits.maxStorageBufferBindingSize ?? 2 ** 27, info.limits.maxBufferSize ?? 2 ** 28)
  const entries = Math.min(splitEntries, x.rows * spans, Math.floor(binding / 4 / entryLength(x)))
  return entries < spans ? 0 : entries * entryLength(x)
}

/** The tile of one launch. Every tile scores the same 32 keys at a time; more lanes along keys where there are few lines. */
const tileOf = (info: AdapterInfo, x: HeadShape, own: boolean) => {
  const shared = x.heads / x.kvHeads
  const narrow = own && shared <= 8
  const [TX, TY, PER] = narrow ? ([32, 2, 1] as const) : ([16, 8, 2] as const)
  const lines = own && shared <= 4 * TY ? shared : shared > 4 * TY ? 4 * TY : Math.floor((4 * TY) / shared) * shared
  const CHUNK = (info.limits.maxComputeWorkgroupStorageSize ?? 16384) >= 40960 ? 8 : 4
  return { lines, constants: { TX, TY, PER, OWN: Math.ceil(x.headDim / 4 / TX), CHUNK, SPAN, PAGE: pageSize } }
}

export const pagedFlash = (info: AdapterInfo, tape: Tape, x: Paged): void => {
  const spans = spansOf(x.maxPages)
  const split =
    x.partial !== undefined &&
    spans > 1 &&
    x.rows * spans <= splitEntries &&
    x.partial.length >= x.rows * spans * entryLength(x)
  const { constants, lines } = tileOf(info, x, x.rows <= decodeRows)
  const tiles = Math.ceil((x.rows * (x.heads / x.kvHeads)) / lines)
  const grid: Grid = [tiles, x.kvHeads, split ? spans : 1]
  const quads = x.headDim / 4
  const bindings = { q: x.q, k: x.k, v: x.v, page_table: x.pageTable, slot: x.slot, position: x.position }
  const params = {
    ...{ rows: x.rows, heads: x.heads, kv_heads: x.kvHeads, max_pages: x.maxPages, lines },
    ...{ scale: 1 / Math.sqrt(x.headDim), quads }
  }
  const out = split && x.partial !== undefined ? x.partial : x.o
  tape.dispatch("attention_forward_paged_flash", { ...bindings, o: out }, params, grid, {
    ...constants,
    SPLIT: split ? 1 : 0
  })
  if (!split) return
  const merge = { partial: out, position: x.position, o: x.o }
  const sizes = { rows: x.rows, heads: x.heads, quads }
  tape.dispatch("attention_forward_paged_merge", merge, sizes, grid1d(x.rows * x.heads * quads, 64), { SPAN })
}
