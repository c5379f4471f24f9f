/**
 * The rungs of the matmul ladder by name, what each needs of a device and of a product, and which one is taken.
 *
 * All of it is pure. A device never decides by its name: `unusable` looks at features and limits, `pickVariant` at those and at what
 * a calibration found fastest (see Calibration.ts). The number of rows at hand plays no part, so that a row's result does not depend on
 * how many others there are; a bound declared beforehand (`capacity`) may.
 */
import type { AdapterInfo } from "./Gpu.ts"
import type { Storage } from "./Matrix.ts"

export type Layout = "NT" | "NN" | "TN"

/** How a rung computes; its kernels are kernels/matmul/<family>*.wgsl. */
export type MatmulFamily = "subgroup" | "tiled" | "register" | "half" | "matrix" | "direct" | "gemv"

export interface Rung {
  readonly family: MatmulFamily
  /** Outputs of a workgroup. */
  readonly rows: number
  readonly cols: number
  /** Inner dimension of one panel. */
  readonly depth: number
  readonly threads: number
  /** 16-bit floats that stand for one number of a: 1, or 2 for nearly the precision of f32. */
  readonly parts: 1 | 2
  /** Bytes of workgroup memory. */
  readonly shared: number
  readonly constants: Readonly<Record<string, number>>
}

const octets = (outputs: number, depth: number, threads: number): number => Math.ceil((outputs * depth) / 8 / threads)

/** Threads in a grid of `tx` by `ty` with `rn` by `rm` quads each, over f32 (`bytes` 4) or 16-bit (2) tiles. */
const register = (family: "register" | "half", tx: number, ty: number, rn: number, rm: number): Rung => {
  const [rows, cols, threads, depth] = [ty * rm * 4, tx * rn * 4, tx * ty, 16]
  const PA = octets(rows, depth, threads)
  const PB = octets(cols, depth, threads)
  const shared = depth * (rows / 4 + cols / 4 + 2) * (family === "register" ? 16 : 8)
  const constants = { TX: tx, TY: ty, RM: rm, RN: rn, DEPTH: depth, PA, PB }
  return { family, rows, cols, depth, threads, parts: 1, shared, constants }
}

/** `sm` by `sn` subgroups of 32 with `tm` by `tn` tiles of 16 x 16 each. */
const matrix = (sm: number, sn: number, tm: number, tn: number, depth: number, parts: 1 | 2 = 1): Rung => {
  const [rows, cols, threads] = [sm * tm * 16, sn * tn * 16, sm * sn * 32]
  const PA = octets(rows, depth, threads)
  const PB = octets(cols, depth, threads)
  const row = depth / 8 + 1
  // The larger of b's two forms, and of staging and epilogue; a row to spare after each.
  const b = Math.max((cols + 1) * row, (depth + 1) * (cols / 8 + 1))
  const shared = 16 * Math.max(parts * rows * row + b, (sm * sn * 16 + 1) * (tn * 4 + 1))
  const constants = { SGM: sm, SGN: sn, TM: tm, TN: tn, DEPTH: depth, PARTS: parts, PA, PB }
  return { family: "matrix", rows, cols, depth, threads, parts, shared, constants }
}

/** The same with tiles in arrays of f16 and f32, for drivers that get loads from other arrays wrong; sums have an array of their own. */
const halves = (sm: number, sn: number, tm: number, tn: number): Rung => {
  const rung = matrix(sm, sn, tm, tn, 32)
  const row = 5
  const b = Math.max((rung.cols + 1) * row, 33 * (rung.cols / 8 + 1))
  const shared = 16 * (rung.rows * row + b + (sm * sn * 16 + 1) * (tn * 4 + 1))
  return { ...rung, shared, constants: { ...rung.constants, HALVES: 1 } }
}

/**
 * The same with b's tiles loaded from where they are stored, as they are used or a panel `ahead`; `shared` is for a, and b of a second
 * product.
 */
const direct = (sm: number, sn: number, tm: number, tn: number, ahead = false): Rung => {
  const rung = matrix(sm, sn, tm, tn, 32)
  return { ...rung, family: "direct", constants: { ...rung.constants, AHEAD: ahead ? rung.depth / 16 : 0 } }
}

const plain = (family: MatmulFamily, side: number, threads: number, shared: number): Rung => ({
  family,
  rows: side,
  cols: side,
  depth: 16,
  threads,
  parts: 1,
  shared,
  constants: {}
})

/** The ladder, simplest first. kernels/matmul/README.md says when each is good and what was measured. */
export const matmulRungs = {
  subgroup: plain("subgroup", 8, 8, 0),
  tiled: plain("tiled", 64, 256, 8704),
  register64: register("register", 16, 16, 1, 1),
  register128: register("register", 16, 16, 2, 2),
  register256x16: register("register", 4, 64, 1, 1),
  register16x256: register("register", 64, 4, 1, 1),
  half64: register("half", 16, 16, 1, 1),
  half128: register("half", 16, 16, 2, 2),
  matrix16: matrix(1, 4, 1, 2, 32),
  matrix32: matrix(1, 4, 2, 2, 32),
  matrix64: matrix(2, 2, 2, 2, 32),
  matrix128: matrix(2, 2, 4, 4, 32),
  matrix128x8: matrix(2, 4, 4, 2, 32),
  matrix128_shallow: matrix(2, 2, 4, 4, 16),
  matrix16_halves: halves(1, 4, 1, 2),
  matrix64_halves: halves(2, 2, 2, 2),
  matrix128_halves: halves(2, 2, 4, 4),
  matrix16_hilo: matrix(1, 4, 1, 2, 32, 2),
  matrix64_hilo: matrix(2, 2, 2, 2, 32, 2),
  matrix128_hilo: matrix(2, 2, 4, 4, 32, 2),
  direct16: direct(1, 4, 1, 2),
  direct64: direct(2, 2, 2, 2),
  direct128: direct(2, 2, 4, 4),
  direct128x2: direct(1, 4, 8, 2),
  direct16_ahead: direct(1, 4, 1, 2, true),
  direct128_ahead: direct(2, 2, 4, 4, true),
  direct128x2_ahead: direct(1, 4, 8, 2, true),
  gemv: plain("gemv", 8, 128, 0)
} as const satisfies Record<string, Rung>

export type MatmulVariant = keyof typeof matmulRungs

export const matmulVariants = Object.keys(matmulRungs) as ReadonlyArray<MatmulVariant>

export const rungOf = (variant: MatmulVariant): Rung => matmulRungs[variant]

/** The lane count of the subgroup tile, or 0 where the device does better with shared memory. */
export const subgroupTile = (info: AdapterInfo): number => {
  const [low, high] = info.subgroupSize
  return info.software && low === high && (low === 4 || low === 8) ? low : 0
}

const lacking = (info: AdapterInfo, features: ReadonlyArray<string>): string | undefined => {
  const missing = features.filter((f) => !info.features.includes(f))
  return missing.length > 0 ? `the device lacks ${missing.join(", ")}` : undefined
}

/** Why a device cannot run a rung; undefined where it can. */
export const unusable = (info: AdapterInfo, variant: MatmulVariant): string | undefined => {
  const rung = rungOf(variant)
  const [low, high] = info.subgroupSize
  const shared = info.limits.maxComputeWorkgroupStorageSize ?? 16384
  const threads = info.limits.maxComputeInvocationsPerWorkgroup ?? 256
  if (rung.shared > shared) return `${rung.shared} bytes of workgroup memory are needed and there are ${shared}`
  if (rung.threads > threads) return `workgroups of ${rung.threads} are needed and the largest has ${threads}`
  switch (rung.family) {
    case "subgroup":
      return subgroupTile(info) > 0 ? undefined : "subgroups of one size of 4 or 8 on a software driver are needed"
    case "gemv":
      return lacking(info, ["subgroups"]) ?? (low >= 4 && high <= rung.threads ? undefined : "subgroups do not fit")
    case "half":
      return lacking(info, ["shader-f16"])
    case "matrix":
    case "direct": {
      const wanted = ["shader-f16", "subgroups", "subgroup-size-control", "chromium-experimental-subgroup-matrix"]
      const missing = lacking(info, wanted)
      if (missing !== undefined) return missing
      if (low > 32 || high < 32) return `subgroups of 32 are needed and there are ${low}…${high}`
      const has = info.subgroupMatrixConfigs.some(
        (c) => c.componentType === "f16" && c.resultComponentType === "f32" && c.M === 16 && c.N === 16 && c.K === 16
      )
      return has ? undefined : "no matrix unit takes 16 x 16 x 16 of f16 with f32 sums"
    }
    case "tiled":
    case "register":
      return undefined
  }
}

/** What a choice of a rung may depend on. */
export interface MatmulShape {
  readonly layout: Layout
  readonly storage: Storage
  /** Columns of this part of b, inner dimensions, and what else has to be a multiple of 4. */
  readonly n: number
  readonly k: number
  readonly k2: number
  readonly stride: number
  /** The most rows there will ever be where the caller has declared it; TN: the rows, which are a weight's dimension. */
  readonly capacity: number | undefined
}

/** Why a rung cannot take a product; undefined where it can. */
export const unfit = (variant: MatmulVariant, s: MatmulShape): string | undefined => {
  const { family } = rungOf(variant)
  if (family === "tiled") return undefined
  if (family === "direct" && s.storage !== "f16_tiles") return "direct is for 16-bit floats in tiles alone"
  if (family === "subgroup" && s.storage === "f16_tiles") return "subgroup tiles read rows, not tiles of 16 x 16"
  if (family === "subgroup") {
    const inner = s.layout === "TN" || (s.k % 4 === 0 && s.k2 % 4 === 0 && s.stride % 4 === 0)
    return inner && (s.layout === "NT" || s.n % 4 === 0) ? undefined : "not all of its dimensions are multiples of 4"
  }
  if (family === "gemv" && s.layout !== "NT") return "gemv is for NT alone"
  const fours = [s.k2, s.stride, ...(family === "gemv" ? [s.k] : [s.n, ...(s.layout === "TN" ? [] : [s.k])])]
  if (s.layout === "TN" && family === "register") fours.push(s.capacity ?? 0)
  return fours.every((d) => d % 4 === 0) ? undefined : "not all of its dimensions are multiples of 4"
}

/**
 * Whether a product can take its rows' RMS norm along: the rung picked for it is `gemv`. Other rungs read a once for many columns, where
 * a pass of its own costs next to nothing. Only for a declared capacity, as the choice must not depend on the rows at hand.
 */
export const fusesNorm = (info: AdapterInfo, choice: MatmulChoice | undefined, s: MatmulShape): boolean =>
  s.capacity !== undefined && s.layout === "NT" && rungOf(pickVariant(info, choice, s)).family === "gemv"

/** Kinds of products that are timed apart: few rows ever (8), some (64), many; thin ones have at most 64 outputs a row. */
export type ShapeKind = "few" | "some" | "thin" | "many"

export const shapeKind = (s: MatmulShape): ShapeKind => {
  if (s.layout === "TN") return Math.min(s.n, s.capacity ?? s.n) <= 64 ? "thin" : "many"
  if (s.capacity !== undefined && s.capacity <= 8) return "few"
  if (s.capacity !== undefined && s.capacity <= 64) return "some"
  return s.n <= 64 ? "thin" : "many"
}

export type ShapeClass = `${Layout}.${ShapeKind}.${Storage}`

export const shapeClass = (s: MatmulShape): ShapeClass => `${s.layout}.${shapeKind(s)}.${s.storage}`

/** Storages of frozen weights in 16 bits. */
export type HeldIn16 = Extract<Storage, "f16" | "f16_tiles">

/** What calibration found fastest and right for each class, or one rung for everything (`only`). */
export interface MatmulChoice {
  readonly only?: MatmulVariant
  /** How frozen 16-bit weights are best held; default f16. */
  readonly weights16?: HeldIn16
  readonly byClass: Readonly<Partial<Record<ShapeClass, MatmulVariant>>>
}

/** One rung wherever it fits, as tests and measurements want it. */
export const onlyVariant = (variant: MatmulVariant): MatmulChoice => ({ only: variant, byClass: {} })

/** What is taken without calibration: f32 throughout, in the order in which it is preferred. */
const uncalibrated: Readonly<Record<ShapeKind, ReadonlyArray<MatmulVariant>>> = {
  few: ["gemv", "register64", "tiled"],
  some: ["register64", "tiled"],
  thin: ["register64", "tiled"],
  many: ["register128", "register64", "tiled"]
}

/** The rung for a product: the chosen one where device and shape allow it, else the first of the portable ones that they allow. */
export const pickVariant = (info: AdapterInfo, choice: MatmulChoice | undefined, s: MatmulShape): MatmulVariant => {
  const can = (v: MatmulVariant | undefined): v is MatmulVariant =>
    v !== undefined && unusable(info, v) === undefined && unfit(v, s) === undefined
  const chosen = choice?.only ?? choice?.byClass[shapeClass(s)]
  if (can(chosen)) return chosen
  if (can("subgroup")) return "subgroup"
  return info.software ? "tiled" : (uncalibrated[shapeKind(s)].find(can) ?? "tiled")
}

/** Workgroups that keep a device busy; splitting the inner dimension makes up for missing tiles. */
const enough = 128

/**
 * Parts into which the inner dimension is cut, each added up by other workgroups and the sums added in order by a second pass. Depends
 * on what `pickVariant` may depend on. Where the rows are unknown only thin products are cut, as if there were 2048.
 */
export const splitsOf = (variant: MatmulVariant, s: MatmulShape, panels: number): number => {
  const rung = rungOf(variant)
  if (s.capacity === undefined && s.n > 64) return 1
  const tiles = Math.ceil((s.capacity ?? 2048) / rung.rows) * Math.ceil(s.n / rung.cols)
  return Math.max(1, Math.min(Math.floor(enough / tiles), Math.floor(panels / 8), 32))
}
