/**
 * Launches of the matmul rungs for one part of b (see MatmulVariant.ts for the rungs, kernels/matmul for the kernels).
 *
 * Names of kernels are put together from the family and the storage here, so the recorder's types cannot follow; it checks the names and
 * numbers of bindings itself.
 */
import type { AdapterInfo } from "../Gpu.ts"
import type { Bindings, Constants, Grid, KernelName, Params } from "../Kernel.ts"
import { kernelSpec } from "../Kernel.ts"
import { type MatmulShape, type MatmulVariant, type Rung, rungOf, splitsOf, subgroupTile } from "../MatmulVariant.ts"
import type { MatrixPart } from "../Matrix.ts"
import { grid1d, maxGroups, type Tape } from "../Tape.ts"
import { type Tensor, window } from "../Tensor.ts"

type F = Tensor<"f32">

/** A product with one part of b, all offsets worked out. */
export interface MatmulJob {
  readonly shape: MatmulShape
  readonly part: MatrixPart
  readonly a: F
  readonly a2: F | undefined
  readonly b2: F | undefined
  readonly bias: F | undefined
  readonly residual: F | undefined
  readonly norm: { readonly weight: F; readonly eps: number } | undefined
  readonly gated: boolean
  readonly out: F
  readonly m: number
  readonly n: number
  readonly k: number
  readonly k2: number
  readonly alpha: number
  readonly accumulate: boolean
  readonly bStride: number
  readonly col0: number
  readonly cols: number
  readonly aStride: number
  readonly a0: number
}

const modes = { NT: 0, NN: 1, TN: 2 } as const

const dispatch = (
  tape: Tape,
  family: string,
  part: MatrixPart | undefined,
  bindings: Readonly<Record<string, Tensor>>,
  params: Readonly<Record<string, number>>,
  grid: Grid,
  constants: Readonly<Record<string, number>>
): void => {
  const name = (
    part === undefined || part.storage === "f32" ? `matmul_${family}` : `matmul_${family}_${part.storage}`
  ) as KernelName
  const own = part === undefined ? {} : { b: part.data, ...("scales" in part ? { scales: part.scales } : {}) }
  const wanted = kernelSpec(name).params
  tape.dispatch(
    name,
    { ...bindings, ...own } as unknown as Bindings<KernelName>,
    Object.fromEntries(Object.keys(wanted).map((key) => [key, params[key] ?? 0])) as unknown as Params<KernelName>,
    grid,
    constants as unknown as Constants<KernelName>
  )
}

const flagsOf = (j: MatmulJob): number => (j.bias ? 1 : 0) + (j.residual ? 2 : 0) + (j.accumulate ? 4 : 0)

const paramsOf = (j: MatmulJob) => ({
  m: j.m,
  n: j.n,
  k: j.k,
  k2: j.k2,
  alpha: j.alpha,
  flags: flagsOf(j),
  mode: modes[j.shape.layout],
  b_stride: j.bStride,
  col0: j.col0,
  cols: j.cols,
  a_stride: j.aStride,
  a0: j.a0
})

/** What stands in for operands that a product does without: they are never read. */
const operands = (j: MatmulJob, a: Tensor = j.a) => ({
  a,
  a2: j.a2 ?? a,
  b2: j.b2 ?? a,
  bias: j.bias ?? a,
  residual: j.residual ?? a,
  out: j.out
})

const tiled = (tape: Tape, j: MatmulJob): void =>
  dispatch(tape, "tiled", j.part, operands(j), paramsOf(j), [Math.ceil(j.n / 64), Math.ceil(j.m / 64)], {})

const subgroup = (tape: Tape, j: MatmulJob, sg: number): void => {
  // All tiles add in the same order, so bits do not depend on which is taken.
  const GROUPS = j.m > sg ? 16 / sg : 1
  switch (j.shape.layout) {
    case "NT": {
      const COLS = j.n > 2 * sg ? 4 : j.n > sg ? 2 : 1
      const few = j.m <= 4 && j.k % sg === 0 && j.k2 % sg === 0
      const rows = few ? (j.m === 1 ? 1 : 4) : sg * GROUPS
      const grid = [Math.ceil(j.n / (sg * COLS)), Math.ceil(j.m / rows)] as const
      const constants = few ? { SG: sg, QUADS: sg / 4, ROWS: rows, COLS } : { SG: sg, GROUPS, COLS }
      return dispatch(tape, few ? "nt_subgroup_few" : "nt_subgroup", j.part, operands(j), paramsOf(j), grid, constants)
    }
    case "NN": {
      const grid = [Math.ceil(j.n / (sg * 4)), Math.ceil(j.m / (sg * GROUPS))] as const
      return dispatch(tape, "nn_subgroup", j.part, operands(j), paramsOf(j), grid, { SG: sg, GROUPS, COLS: 1 })
    }
    case "TN": {
      const CHUNKS = 16 / sg
      const grid = [Math.ceil(j.n / (sg * 4)), Math.ceil(j.m / (sg * CHUNKS))] as const
      return dispatch(tape, "tn_subgroup", j.part, operands(j), paramsOf(j), grid, { SG: sg, CHUNKS, COLS: 1 })
    }
  }
}

const gemv = (tape: Tape, j: MatmulJob, info: AdapterInfo, threads: number): void => {
  const SUBGROUPS = threads / info.subgroupSize[1]
  const ROWS = j.m >= 8 ? 8 : j.m > 4 ? 8 : j.m > 2 ? 4 : j.m
  const OUT = ROWS === 8 ? 2 : 4
  const GATED = j.gated ? 1 : 0
  const grid = [Math.ceil(j.n / (SUBGROUPS * OUT)), Math.ceil(j.m / ROWS)] as const
  const constants = { WG: threads, SUBGROUPS, ROWS, OUT }
  if (j.norm === undefined) return dispatch(tape, "gemv", j.part, operands(j), paramsOf(j), grid, constants)
  const bindings = { ...operands(j), norm: j.norm.weight }
  dispatch(tape, "gemv_norm", j.part, bindings, { ...paramsOf(j), eps: j.norm.eps }, grid, { ...constants, GATED })
}

const padded = (length: number, depth: number): number => Math.ceil(length / depth) * depth

/** Launches a tile kernel over its grid, in splits where that is called for, and adds those up. */
const splitting = (
  tape: Tape,
  variant: MatmulVariant,
  j: MatmulJob,
  family: string,
  part: MatrixPart | undefined,
  bindings: Readonly<Record<string, Tensor>>,
  params: Readonly<Record<string, number>>,
  constants: Readonly<Record<string, number>>
): void => {
  const rung: Rung = rungOf(variant)
  const panels = Math.ceil(j.k / rung.depth)
  const all = panels + Math.ceil(j.k2 / rung.depth)
  const span = Math.ceil(all / splitsOf(variant, j.shape, all))
  const splits = Math.ceil(all / span)
  const grid = [Math.ceil(j.n / rung.cols), Math.ceil(j.m / rung.rows), splits] as const
  const last = { ...params, panels, span }
  if (splits === 1) return dispatch(tape, family, part, bindings, last, grid, constants)
  const partial = tape.scratch("matmul.partial", "f32", splits * j.m * j.n)
  if (partial === undefined) return
  dispatch(tape, family, part, { ...bindings, out: partial }, { ...last, flags: 8 }, grid, constants)
  const WG = 64
  const finish = { m: j.m, n: j.n, splits, flags: flagsOf(j), col0: j.col0, cols: j.cols }
  const rest = { partial, bias: j.bias ?? partial, residual: j.residual ?? partial, out: j.out }
  dispatch(tape, "split_finish", undefined, rest, finish, grid1d(j.m * (j.n / 4), WG), { WG })
}

const register = (tape: Tape, variant: MatmulVariant, j: MatmulJob): void => {
  const constants = { MODE: modes[j.shape.layout], ...rungOf(variant).constants }
  splitting(tape, variant, j, "register", j.part, operands(j), paramsOf(j), constants)
}

/** The columns of a [k, m] (or b [k, n]) as rows of 16-bit floats. */
const packColumns = (
  tape: Tape,
  slot: string,
  x: F,
  m: number,
  k: number,
  alpha: number,
  depth: number,
  parts: 1 | 2
) => {
  const stride = padded(k, depth)
  const data = tape.scratch(`matmul.${slot}`, "u32", (parts * m * stride) / 2)
  const scale = tape.scratch(`matmul.${slot}.scale`, "f32", m)
  if (data === undefined || scale === undefined) return undefined
  const constants = { COLS: 32, LANES: 8, PARTS: parts }
  const params = { m, k, alpha, stride }
  dispatch(tape, "pack_columns", undefined, { a: x, out: data, scale }, params, [Math.ceil(m / 32)], constants)
  return { data, scale, stride }
}

const packRows = (tape: Tape, j: MatmulJob, depth: number, parts: 1 | 2) => {
  const first = padded(j.k, depth)
  const stride = first + padded(j.k2, depth)
  const data = tape.scratch("matmul.a", "u32", (parts * j.m * stride) / 2)
  const scale = tape.scratch("matmul.a.scale", "f32", j.m)
  if (data === undefined || scale === undefined) return undefined
  const { k, k2, alpha } = j
  const params = { rows: j.m, k, k2, a_stride: j.aStride, a0: j.a0, alpha, padded: first, stride }
  const bindings = { a: j.a, a2: j.a2 ?? j.a, out: data, scale }
  dispatch(tape, "pack", undefined, bindings, params, grid1d(j.m, 1), { WG: 128, PARTS: parts })
  return { data, scale, stride }
}

/** The half, matrix and direct families: all read a in 16-bit floats; TN becomes NT of the two transposed. */
const packed = (tape: Tape, variant: MatmulVariant, j: MatmulJob): void => {
  const { family, depth, parts, constants } = rungOf(variant)
  const transposed = j.shape.layout === "TN"
  const a = transposed ? packColumns(tape, "a", j.a, j.m, j.k, j.alpha, depth, parts) : packRows(tape, j, depth, parts)
  if (a === undefined) return
  const MODE = transposed ? 0 : modes[j.shape.layout]
  const params = { ...paramsOf(j), a_stride: a.stride, a0: 0 }
  const bindings = { ...operands(j, a.data), a_scale: a.scale }
  if (!transposed) return splitting(tape, variant, j, family, j.part, bindings, params, { MODE, ...constants })
  if (j.part.storage !== "f32") return
  const b = packColumns(tape, "b", j.part.data, j.n, j.k, 1, depth, 1)
  if (b === undefined) return
  const both = { ...bindings, b: b.data, scales: b.scale }
  const wide = { ...params, b_stride: b.stride }
  splitting(tape, variant, j, `${family}_packed`, undefined, both, wide, { MODE, ...constants })
}

/** Bytes that packed operands may take; more rows are done in several goes. */
const packedBytes = 2 ** 28

/** Rows that one go of a rung may take: a multiple of 64, so that windows are aligned. */
const rowsAtOnce = (info: AdapterInfo, variant: MatmulVariant, j: MatmulJob): number => {
  const { family, parts, depth, rows } = rungOf(variant)
  const byGrid = family === "tiled" || family === "subgroup" ? Number.POSITIVE_INFINITY : rows * maxGroups
  if (!["half", "matrix", "direct"].includes(family) || j.shape.layout === "TN") return byGrid
  const most = Math.min(packedBytes, info.limits.maxStorageBufferBindingSize ?? packedBytes)
  const row = 2 * parts * (padded(j.k, depth) + padded(j.k2, depth))
  return Math.max(64, Math.floor(most / row / 64) * 64)
}

const one = (tape: Tape, info: AdapterInfo, variant: MatmulVariant, j: MatmulJob): void => {
  const { family, threads } = rungOf(variant)
  switch (family) {
    case "tiled":
      return tiled(tape, j)
    case "subgroup":
      return subgroup(tape, j, subgroupTile(info))
    case "gemv":
      return gemv(tape, j, info, threads)
    case "register":
      return register(tape, variant, j)
    case "half":
    case "matrix":
    case "direct":
      return packed(tape, variant, j)
  }
}

/** Records one product by the rung given. */
export const launch = (tape: Tape, info: AdapterInfo, variant: MatmulVariant, j: MatmulJob): void => {
  const most = rowsAtOnce(info, variant, j)
  if (j.m <= most || j.shape.layout === "TN") return one(tape, info, variant, j)
  for (let at = 0; at < j.m; at += most) {
    const m = Math.min(most, j.m - at)
    const rows = (x: F | undefined, width: number) => (x === undefined ? undefined : window(x, at * width, m * width))
    one(tape, info, variant, {
      ...j,
      m,
      a: window(j.a, at * j.aStride, m * j.aStride),
      a2: rows(j.a2, j.k2),
      residual: rows(j.residual, j.cols),
      out: window(j.out, at * j.cols, m * j.cols)
    })
  }
}
