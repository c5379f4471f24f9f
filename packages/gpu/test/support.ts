/**
 * What the kernel tests share: the device, seeded data, and the comparison with a double-precision oracle.
 *
 * A result is held against the oracle element by element: |x − y| ≤ tolerance · (|y| + rms(y)). The second term is needed
 * because sums that nearly cancel carry the rounding of their summands, not of themselves.
 */
import { assert } from "@effect/vitest"
import { Effect } from "effect"
import { type AdapterInfo, Gpu, GpuDawn, makeOps, type Ops, onlyVariant, type Tape, type Tensor } from "../src/index.ts"

export const DeviceLayer = GpuDawn.layerWith({ device: "auto" })

/**
 * Forces what Ops chooses for hardware: shared-memory tiles and a workgroup per row. No workgroup has more than 256 lanes: a
 * software driver takes long over the barriers of larger ones.
 */
export const asHardware = (info: AdapterInfo): AdapterInfo => ({
  ...info,
  software: false,
  limits: { ...info.limits, maxComputeInvocationsPerWorkgroup: 256 }
})

/** A device with matrix units and roomy workgroups, as data-centre cards report it. */
export const asCard = (info: AdapterInfo): AdapterInfo => ({
  ...info,
  software: false,
  subgroupSize: [32, 32],
  subgroupMatrixConfigs: [{ componentType: "f16", resultComponentType: "f32", M: 16, N: 16, K: 16 }],
  limits: { ...info.limits, maxComputeWorkgroupStorageSize: 49152, maxComputeInvocationsPerWorkgroup: 1024 }
})

export type Variant = "software" | "hardware"
export const variants: ReadonlyArray<Variant> = ["software", "hardware"]

export const opsOf = (variant: Variant) =>
  Effect.gen(function* () {
    const { info } = yield* Gpu
    // The ladder's other rungs have tests of their own (ladder.test.ts); unrolled tiles take a software driver seconds to compile.
    return variant === "software"
      ? makeOps({ ...info, software: true })
      : makeOps(asHardware(info), onlyVariant("tiled"))
  })

/** Seeded uniform numbers in [0, 1) (mulberry32) and what is made of them. */
export const seeded = (seed: number) => {
  let state = seed >>> 0
  const next = (): number => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = Math.imul(state ^ (state >>> 15), state | 1)
    t = (t + Math.imul(t ^ (t >>> 7), t | 61)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }
  const normal = (): number => Math.sqrt(-2 * Math.log(1 - next())) * Math.cos(2 * Math.PI * next())
  return {
    next,
    normal,
    integer: (below: number): number => Math.floor(next() * below),
    /** Normal numbers, rounded to what the device will hold. */
    floats: (length: number, scale = 1): Float32Array<ArrayBuffer> =>
      Float32Array.from({ length }, () => normal() * scale),
    integers: (length: number, below: number): Array<number> => Array.from({ length }, () => Math.floor(next() * below))
  }
}

/** Uploads numbers into a fresh buffer. */
export const f32 = Effect.fn("test.f32")(function* (label: string, values: ArrayLike<number>) {
  const gpu = yield* Gpu
  const tensor = yield* gpu.alloc(label, "f32", values.length)
  yield* gpu.write(tensor, Float32Array.from(values))
  return tensor
})

export const u32 = Effect.fn("test.u32")(function* (label: string, values: ArrayLike<number>) {
  const gpu = yield* Gpu
  const tensor = yield* gpu.alloc(label, "u32", values.length)
  yield* gpu.write(tensor, Uint32Array.from(values))
  return tensor
})

/** A buffer for results, filled with a value that no result has: what a kernel fails to write shows. */
export const blank = (label: string, length: number) => f32(label, new Float32Array(length).fill(12345.678))

export const launch = Effect.fn("test.launch")(function* (ops: Ops, record: (tape: Tape, ops: Ops) => void) {
  const gpu = yield* Gpu
  yield* gpu.submit("test", (tape) => record(tape, ops))
})

export const read = Effect.fn("test.read")(function* (tensor: Tensor<"f32">) {
  return yield* (yield* Gpu).read(tensor)
})

export const assertClose = (
  name: string,
  actual: ArrayLike<number>,
  expected: ArrayLike<number>,
  tolerance = 1e-4
): void => {
  assert.strictEqual(actual.length, expected.length, `${name}: length`)
  let square = 0
  for (let i = 0; i < expected.length; i++) square += expected[i]! ** 2
  const rms = Math.sqrt(square / Math.max(1, expected.length))
  for (let i = 0; i < expected.length; i++) {
    const error = Math.abs(actual[i]! - expected[i]!)
    // Written so that NaN fails.
    if (!(error <= tolerance * (Math.abs(expected[i]!) + rms) + 1e-30)) {
      assert.fail(`${name}[${i}]: ${actual[i]} instead of ${expected[i]} (rms ${rms}, tolerance ${tolerance})`)
    }
  }
}

export const assertSameBits = (name: string, a: Float32Array<ArrayBuffer>, b: Float32Array<ArrayBuffer>): void => {
  assert.deepStrictEqual(new Uint32Array(a.buffer), new Uint32Array(b.buffer), `${name}: not the same bits`)
}

/** Central differences of a scalar function of `x`, in double precision. */
export const numericGradient = (x: ArrayLike<number>, f: (x: Float64Array) => number, step = 1e-5): Float64Array =>
  Float64Array.from({ length: x.length }, (_, i) => {
    const moved = Float64Array.from(x)
    moved[i] = x[i]! + step
    const up = f(moved)
    moved[i] = x[i]! - step
    return (up - f(moved)) / (2 * step)
  })

export const dot = (a: ArrayLike<number>, b: ArrayLike<number>): number => {
  let sum = 0
  for (let i = 0; i < a.length; i++) sum += a[i]! * b[i]!
  return sum
}
