/**
 * Verifies and times the rungs of the matmul ladder on the device at hand: what a calibration is made of.
 *
 * For a shape of each class, each rung that the device's features and limits allow is compared with the simplest one on random input of odd
 * shapes, in that layout and storage; one that does not compile, fails, or differs is left out with the reason. Those that hold are timed.
 * 16-bit tiles are candidates only where a weight is held in 16 bits or fewer: f32 stays f32. What f16 finds fastest is verified for int8
 * and int4 too. Compiling a rung takes a driver up to seconds, so all of it has a time: the most promising rungs of every class come first,
 * and what is not begun when the time is up is left out with that reason.
 */
import { Clock, Effect } from "effect"
import { Gpu } from "./Gpu.ts"
import type { GpuError } from "./GpuError.ts"
import {
  type HeldIn16,
  type Layout,
  type MatmulChoice,
  type MatmulFamily,
  type MatmulShape,
  type MatmulVariant,
  matmulVariants,
  onlyVariant,
  rungOf,
  type ShapeClass,
  type ShapeKind,
  shapeClass,
  shapeKind,
  unfit,
  unusable
} from "./MatmulVariant.ts"
import { allocMatrix, type Matrix, type Storage, strideOf } from "./Matrix.ts"
import { packRows, writeRows } from "./MatrixPack.ts"
import { type MatmulArgs, makeOps } from "./Ops.ts"
import type { Tape } from "./Tape.ts"
import type { Tensor } from "./Tensor.ts"

/** A rung that is not to be used somewhere, and why. */
export interface DroppedRung {
  readonly variant: string
  readonly where: string
  readonly reason: string
}

export interface RungTime {
  readonly class: string
  readonly variant: string
  readonly microseconds: number
}

export interface MatmulMeasurement {
  readonly byClass: MatmulChoice["byClass"]
  readonly weights16: HeldIn16
  readonly dropped: ReadonlyArray<DroppedRung>
  readonly times: ReadonlyArray<RungTime>
}

/** A product to time: `capacity` rows declared, none for the kinds many and thin. */
export interface TimedShape {
  readonly layout: Layout
  readonly storage: Storage
  readonly m: number
  readonly n: number
  readonly k: number
  readonly capacity?: number
}

const side = 4096

/**
 * One shape of each class that matters, in the order in which it matters: layers of a model of a few billion weights, and the thin products
 * of adapters.
 */
export const timedShapes: ReadonlyArray<TimedShape> = [
  { layout: "NT", storage: "f16", m: 2048, n: side, k: side },
  { layout: "NN", storage: "f16", m: 2048, n: side, k: side },
  { layout: "NT", storage: "f16", m: 4, n: side, k: side, capacity: 8 },
  { layout: "NT", storage: "f16", m: 64, n: side, k: side, capacity: 64 },
  { layout: "NT", storage: "f16_tiles", m: 2048, n: side, k: side },
  { layout: "NN", storage: "f16_tiles", m: 2048, n: side, k: side },
  { layout: "NT", storage: "f32", m: 2048, n: side, k: side },
  { layout: "NN", storage: "f32", m: 2048, n: side, k: side },
  { layout: "TN", storage: "f32", m: side, n: side, k: 2048 },
  { layout: "NT", storage: "f16_tiles", m: 4, n: side, k: side, capacity: 8 },
  { layout: "NT", storage: "f32", m: 4, n: side, k: side, capacity: 8 },
  { layout: "NT", storage: "f16_tiles", m: 64, n: side, k: side, capacity: 64 },
  { layout: "NT", storage: "f32", m: 64, n: side, k: side, capacity: 64 },
  { layout: "NT", storage: "f32", m: 2048, n: 32, k: side },
  { layout: "NN", storage: "f32", m: 2048, n: 32, k: side },
  { layout: "TN", storage: "f32", m: 32, n: side, k: 2048 }
]

export interface MeasureOptions {
  /** Rungs to consider; default all. */
  readonly variants?: ReadonlyArray<MatmulVariant>
  readonly shapes?: ReadonlyArray<TimedShape>
  /** Seconds after which no further rung is begun; default 60. */
  readonly seconds?: number
  /** Called before a rung runs for the first time, so that one that ends the process can be told afterwards. */
  readonly onTry?: (variant: MatmulVariant) => Effect.Effect<void>
}

const shapeOf = (s: TimedShape, k2: number): MatmulShape => {
  const stride = strideOf(s.storage, s.layout === "NT" ? s.k : s.n)
  const capacity = s.layout === "TN" ? s.m : s.capacity
  return { layout: s.layout, storage: s.storage, n: s.n, k: s.k, k2, stride, capacity }
}

/** Whether a rung is worth timing for a class: precision as the storage has it, and tiles of about the right shape. */
export const isCandidate = (variant: MatmulVariant, storage: Storage, kind: ShapeKind): boolean => {
  const { family, parts, rows, cols } = rungOf(variant)
  if (family === "subgroup" || parts === 2) return false
  if (storage === "f32" && (family === "half" || family === "matrix")) return false
  if (family === "gemv") return kind === "few" || kind === "some"
  const lopsided = Math.max(rows, cols) / Math.min(rows, cols) >= 16
  return lopsided ? kind === "thin" : true
}

/** Work a cycle that a family may do at best, against f32 tiles in registers. */
const speeds: Readonly<Record<MatmulFamily, number>> = {
  ...{ subgroup: 0.1, tiled: 0.3, register: 1, half: 2, matrix: 8, direct: 9, gemv: 100 }
}

/** How good a rung can be expected to be for a shape; only the order counts, and only for what is tried first. */
export const promiseOf = (variant: MatmulVariant, s: TimedShape): number => {
  const { cols, constants, family, rows } = rungOf(variant)
  const used = Math.min(1, s.m / rows) * Math.min(1, s.n / cols)
  // Larger tiles load less for each product; small ones of a family serve few rows no worse than large ones that stand empty.
  // Stand-ins, for where the others do not compute what they should.
  const spare = constants.HALVES === 1 ? 0.25 : 1
  return spare * speeds[family] * used * Math.sqrt(1 / (1 / rows + 1 / cols))
}

/** One shape and what is to be tried for it, in order. */
export interface MeasureStep {
  readonly shape: TimedShape
  readonly variants: ReadonlyArray<MatmulVariant>
}

/** What is tried, in order: the `first` most promising rungs of every shape, then the others of each. */
export const measureSteps = (
  variants: ReadonlyArray<MatmulVariant>,
  shapes: ReadonlyArray<TimedShape>,
  first = 3
): ReadonlyArray<MeasureStep> => {
  const ranked = shapes.map((shape): MeasureStep => {
    const whole = shapeOf(shape, 0)
    const fitting = variants.filter(
      (v) => isCandidate(v, shape.storage, shapeKind(whole)) && unfit(v, whole) === undefined
    )
    return { shape, variants: fitting.sort((a, b) => promiseOf(b, shape) - promiseOf(a, shape)) }
  })
  const part = (from: number, to?: number) => ranked.map((s) => ({ ...s, variants: s.variants.slice(from, to) }))
  return [...part(0, first), ...part(first)].filter((s) => s.variants.length > 0)
}

const inOrder = <T extends RungTime>(times: ReadonlyArray<T>): ReadonlyArray<T> =>
  [...times].sort((a, b) => a.microseconds - b.microseconds)

/** The fastest of each class; what f16 found serves int8 and int4 too, where it holds for them. */
export const fastest = (
  times: ReadonlyArray<RungTime & { readonly shape: MatmulShape; readonly variant: MatmulVariant }>,
  holds: (variant: MatmulVariant, layout: Layout, storage: Storage) => boolean
): MatmulChoice["byClass"] => {
  const byClass: Partial<Record<ShapeClass, MatmulVariant>> = {}
  for (const { shape } of times) {
    const own = inOrder(times.filter((t) => t.class === shapeClass(shape)))
    for (const storage of shape.storage === "f16" ? (["f16", "int8", "int4"] as const) : [shape.storage]) {
      const best = own.find((t) => holds(t.variant, shape.layout, storage))
      if (best) byClass[shapeClass({ ...shape, storage })] = best.variant
    }
  }
  return byClass
}

/** What tiles may lose on products of few rows to what they win on those of many. */
const mayLose = 1.03

/**
 * How frozen 16-bit weights are best held: in tiles where forward and input gradient of many rows are together faster with them and decoding
 * loses at most 3 %. As rows where something was not timed.
 */
export const weightsHeld = (times: ReadonlyArray<RungTime>): HeldIn16 => {
  const best = (held: HeldIn16) =>
    ["NT.many", "NN.many", "NT.some", "NT.few"].map((kind) =>
      Math.min(...times.filter((t) => t.class === `${kind}.${held}`).map((t) => t.microseconds))
    )
  const [forward = 0, back = 0, ...few] = best("f16")
  const [tiledForward = 0, tiledBack = 0, ...tiledFew] = best("f16_tiles")
  const keeps = tiledFew.every((t, i) => Number.isFinite(t) && t <= mayLose * (few[i] ?? 0))
  const [rows, tiles] = [forward + back, tiledForward + tiledBack]
  return Number.isFinite(rows) && few.every(Number.isFinite) && tiles < rows && keeps ? "f16_tiles" : "f16"
}

/** Numbers in ±1 that repeat from run to run (a linear congruence; only their variety matters). */
const noise = (length: number): Float32Array<ArrayBuffer> => {
  let state = 12345
  return Float32Array.from({ length }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return (state >>> 8) / 2 ** 23 - 1
  })
}

const launch = (gpuOps: ReturnType<typeof makeOps>, layout: Layout, x: MatmulArgs) => (tape: Tape) => {
  if (layout === "NT") gpuOps.matmulNT(tape, x)
  else if (layout === "NN") gpuOps.matmulNN(tape, x)
  else gpuOps.matmulTN(tape, x)
}

/** The largest |x − y| / (|y| + rms(y)); infinite where something is no number. */
const difference = (x: ArrayLike<number>, y: ArrayLike<number>): number => {
  let square = 0
  for (let i = 0; i < y.length; i++) square += (y[i] ?? 0) ** 2
  const rms = Math.sqrt(square / Math.max(1, y.length))
  let worst = 0
  for (let i = 0; i < y.length; i++) {
    const error = Math.abs((x[i] ?? Number.NaN) - (y[i] ?? 0)) / (Math.abs(y[i] ?? 0) + rms + 1e-30)
    if (!(error <= worst)) worst = Number.isNaN(error) ? Number.POSITIVE_INFINITY : error
  }
  return worst
}

/** What is wrong with the results of one product by a rung, against the simplest one's from the same input; undefined where nothing is. */
const faultOf = Effect.fnUntraced(function* (variant: MatmulVariant, layout: Layout, storage: Storage) {
  if (variant === "tiled") return undefined
  const gpu = yield* Gpu
  const [m, n, k, k2] = [68, 132, 300, layout === "TN" ? 0 : 12]
  const values = noise(k * Math.max(m, n) + m * n)
  const upload = Effect.fnUntraced(function* (from: number, length: number) {
    const tensor = yield* gpu.alloc("calibration", "f32", length)
    yield* gpu.write(tensor, values.slice(from, from + length))
    return tensor
  })
  const [rows, cols] = layout === "NT" ? [n, k] : [k, n]
  const matrix = yield* allocMatrix("calibration", storage, rows, cols)
  yield* writeRows(matrix, 0, rows, packRows(storage, values.slice(0, rows * cols), rows, cols))
  const part = matrix.parts[0]
  const b = layout === "TN" && part?.storage === "f32" ? part.data : matrix
  const a = yield* upload(7, m * k)
  const once = { bias: yield* upload(3, n), residual: yield* upload(11, m * n) }
  const extra = { a: yield* upload(5, m * k2), b: yield* upload(2, n * k2), k: k2 }
  const product = Effect.fnUntraced(function* (by: MatmulVariant) {
    const out = yield* gpu.alloc("calibration", "f32", m * n)
    const x = { a, b, out, m, n, k, alpha: 0.5, ...(layout === "TN" ? {} : { ...once, extra }) }
    yield* gpu.submit("calibration", launch(makeOps(gpu.info, onlyVariant(by)), layout, x))
    return yield* gpu.read(out)
  }, Effect.scoped)
  const simplest = yield* product("tiled")
  const tolerance = ["half", "matrix", "direct"].includes(rungOf(variant).family) ? 4e-3 : 1e-4
  const result = yield* Effect.result(product(variant))
  if (result._tag === "Failure") return result.failure.message
  const error = difference(result.success, simplest)
  return error <= tolerance ? undefined : `its results differ by ${error.toPrecision(2)} of their size`
}, Effect.scoped)

/** Fills a tensor with copies of a shorter one. */
const fill = (tensor: Tensor, from: Tensor) => (tape: Tape) => {
  for (let at = 0; at < tensor.length; at += from.length) {
    const length = Math.min(from.length, tensor.length - at)
    tape.copy({ ...from, length }, { ...tensor, offset: tensor.offset + at, length }, length)
  }
}

/**
 * Microseconds of one product by each of `variants` that `may` be tried: the best of a few runs, by timestamps where there are any.
 */
const time = Effect.fnUntraced(function* (
  s: TimedShape,
  variants: ReadonlyArray<MatmulVariant>,
  may: (variant: MatmulVariant) => Effect.Effect<boolean, GpuError, Gpu>
) {
  const gpu = yield* Gpu
  const [rows, cols] = s.layout === "NT" ? [s.n, s.k] : [s.k, s.n]
  const b: Matrix = yield* allocMatrix("calibration", s.storage, rows, cols)
  const floats = yield* gpu.alloc("calibration", "f32", 1 << 16)
  yield* gpu.write(floats, noise(1 << 16))
  // Words whose halves are small 16-bit floats: exponents from 8 to 15 of 31.
  const words = yield* gpu.alloc("calibration", "u32", 1 << 16)
  const bits = Uint32Array.from(noise(1 << 16), (v) => Math.floor((v + 1) * 2 ** 31) >>> 0)
  yield* gpu.write(
    words,
    bits.map((w) => (w & 0x9fff9fff) | 0x20002000)
  )
  const a = yield* gpu.alloc("calibration", "f32", s.m * s.k)
  const out = yield* gpu.alloc("calibration", "f32", s.m * s.n)
  yield* gpu.submit("calibration", (tape) => {
    fill(a, floats)(tape)
    for (const part of b.parts) fill(part.data, part.storage === "f32" ? floats : words)(tape)
  })
  const first = b.parts[0]
  const operand = s.layout === "TN" && first?.storage === "f32" ? first.data : b
  const capacity = s.capacity === undefined ? {} : { capacity: s.capacity }
  const x = { a, b: operand, out, m: s.m, n: s.n, k: s.k, ...capacity }
  const times: Array<{ variant: MatmulVariant; microseconds: number }> = []
  for (const variant of variants) {
    if (!(yield* may(variant))) continue
    const record = launch(makeOps(gpu.info, onlyVariant(variant)), s.layout, x)
    let best = Number.POSITIVE_INFINITY
    let spent = 0
    // The first run compiles and does not count; slow ones are not repeated.
    for (let run = 0; run <= 5 && spent < 2e5; run++) {
      const started = yield* Clock.currentTimeNanos
      const stamps = yield* gpu.profile("calibration", record)
      yield* gpu.idle
      const wall = Number((yield* Clock.currentTimeNanos) - started) / 1000
      const stamped = stamps.reduce((sum, t) => sum + t.nanoseconds, 0) / 1000
      if (run === 0) continue
      const took = stamped > 0 ? stamped : wall
      best = Math.min(best, took)
      spent += took
    }
    times.push({ variant, microseconds: best })
  }
  return times
}, Effect.scoped)

/** Verifies and times on this device; up to `seconds` of its time, and up to 200 MB of its memory while it lasts. */
export const measureMatmul = (options: MeasureOptions = {}): Effect.Effect<MatmulMeasurement, GpuError, Gpu> =>
  Effect.gen(function* () {
    const gpu = yield* Gpu
    const seconds = options.seconds ?? 60
    const end = (yield* Clock.currentTimeMillis) + 1000 * seconds
    const late = Effect.map(Clock.currentTimeMillis, (now) => now >= end)
    const dropped: Array<DroppedRung> = []
    const usable: Array<MatmulVariant> = []
    for (const variant of options.variants ?? matmulVariants) {
      if (variant === "subgroup") continue
      const reason = unusable(gpu.info, variant)
      if (reason === undefined) usable.push(variant)
      else dropped.push({ variant, where: "everywhere", reason })
    }
    const verified = new Map<string, boolean>()
    const skip = (variant: MatmulVariant, where: string) =>
      dropped.push({ variant, where, reason: `not tried: the ${seconds} seconds for all of it were up` })
    /** Whether a rung computes what it should; looked at once for each layout and storage. */
    const holds = Effect.fnUntraced(function* (variant: MatmulVariant, layout: Layout, storage: Storage) {
      const key = `${variant} ${layout} ${storage}`
      const known = verified.get(key)
      if (known !== undefined) return known
      if (options.onTry) yield* options.onTry(variant)
      const reason = yield* faultOf(variant, layout, storage)
      verified.set(key, reason === undefined)
      if (reason !== undefined) dropped.push({ variant, where: `${layout} ${storage}`, reason })
      return reason === undefined
    })
    const times: Array<RungTime & { readonly shape: MatmulShape; readonly variant: MatmulVariant }> = []
    for (const { shape: s, variants } of measureSteps(usable, options.shapes ?? timedShapes)) {
      const shape = shapeOf(s, 0)
      const name = shapeClass(shape)
      const may = Effect.fnUntraced(function* (variant: MatmulVariant) {
        if (yield* late) {
          skip(variant, name)
          return false
        }
        return yield* holds(variant, s.layout, s.storage)
      })
      const own = yield* time(s, variants, may)
      for (const t of own) times.push({ ...t, class: name, shape })
    }
    // What serves 16-bit weights has yet to be seen to serve those of fewer bits.
    for (const { class: name, shape, variant } of inOrder(times)) {
      if (shape.storage !== "f16") continue
      for (const storage of ["int8", "int4"] as const) {
        const better = inOrder(times).find(
          (t) => t.class === name && verified.get(`${t.variant} ${shape.layout} ${storage}`) === true
        )
        if (better !== undefined) continue
        if (yield* late) skip(variant, shapeClass({ ...shape, storage }))
        else yield* holds(variant, shape.layout, storage)
      }
    }
    return {
      byClass: fastest(
        times,
        (variant, layout, storage) => verified.get(`${variant} ${layout} ${storage}`) ?? variant === "tiled"
      ),
      weights16: weightsHeld(times),
      dropped,
      times: times.map(({ class: name, variant, microseconds }) => ({ class: name, variant, microseconds }))
    }
  })
