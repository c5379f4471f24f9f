/**
 * Products for few rows that norm their rows on the way, and gate: against the f64 oracle and against norm, product and gate one after
 * the other. Operands end in numbers that are none and results in a mark, so that reading or writing past the end shows.
 */
import { assert, describe, it, layer } from "@effect/vitest"
import { matmul } from "@srcode/kernels/matmul/reference"
import { rmsNorm } from "@srcode/kernels/rms_norm/reference"
import { swiglu } from "@srcode/kernels/swiglu/reference"
import { unpackF16, unpackInt4, unpackInt8 } from "@srcode/kernels/weight/reference"
import { Effect } from "effect"
import {
  type AdapterInfo,
  allocMatrix,
  fusesNorm,
  Gpu,
  type MatmulArgs,
  makeOps,
  matmulVariants,
  onlyVariant,
  packRows,
  type Storage,
  strideOf,
  unusable,
  writeRows
} from "../src/index.ts"
import { asCard, asHardware, assertClose, assertSameBits, DeviceLayer, f32, read, seeded } from "./support.ts"

const compileTime = 600_000
const tail = 64
const mark = 12345.678
const eps = 1e-5
const guarded = (values: ArrayLike<number>, end: number) =>
  Float32Array.from([...Array.from(values), ...new Array<number>(tail).fill(end)])
const poisoned = (values: ArrayLike<number>) => guarded(values, Number.NaN)

const meaning = (storage: Storage, values: Float32Array<ArrayBuffer>, rows: number, cols: number): Float64Array => {
  const { data, scales } = packRows(storage, values, rows, cols)
  const stride = strideOf(storage, cols)
  if (storage === "f32") return Float64Array.from(values)
  if (storage === "f16") return unpackF16(data, rows, cols, stride)
  if (storage === "int8") return unpackInt8(data, new Float32Array(scales.buffer), rows, cols, stride)
  return unpackInt4(data, scales, rows, cols, stride)
}

interface Case {
  readonly storage: Storage
  readonly m: number
  readonly n: number
  readonly k: number
  readonly k2: number
}

/** Both forms of one case on the device, and what they should be. `size` is that of the rows before they are normed. */
const run = Effect.fn("test.run")(function* (c: Case, size = 1) {
  const gpu = yield* Gpu
  const { k, k2, m, n, storage } = c
  const ops = makeOps(asHardware(gpu.info), onlyVariant("gemv"))
  const random = seeded(m * 7 + n * 3 + k)
  const [a, gain, bias] = [random.floats(m * k, size), random.floats(k), random.floats(n)]
  const weights = random.floats(k * n, 0.2)
  const low = { a: random.floats(m * k2), b: random.floats(n * k2, 0.2), k: k2 }
  const held = meaning(storage, weights, n, k)
  const b = yield* allocMatrix("b", storage, n, k)
  yield* writeRows(b, 0, n, packRows(storage, weights, n, k))
  const out = yield* f32("out", guarded(new Float32Array(m * n).fill(0.5), mark))
  const half = yield* f32("half", guarded(new Float32Array((m * n) / 2), mark))
  const norm = { weight: yield* f32("gain", poisoned(gain)), eps }
  const extra = { a: yield* f32("a2", poisoned(low.a)), b: yield* f32("b2", poisoned(low.b)), k: k2 }
  const given = yield* f32("bias", poisoned(bias))
  const common = { a: yield* f32("a", poisoned(a)), b, m, n, k, capacity: 8, norm, ...(k2 > 0 ? { extra } : {}) }
  assert.deepStrictEqual(ops.fused(common), { norm: true, gated: n % 2 === 0 })
  yield* gpu.submit("test", (tape) => {
    ops.matmulNT(tape, { ...common, out, alpha: 0.75, bias: given, accumulate: true })
    if (n % 2 === 0) ops.matmulNT(tape, { ...common, out: half, gated: true })
  })
  const normed = rmsNorm(a, gain, m, k, eps).y
  const all = { a: normed, b: held, m, n, k, extra: k2 > 0 ? low : undefined }
  const plain = { alpha: 0.75, bias, previous: new Float32Array(m * n).fill(0.5) }
  const [first, second] = [yield* read(out), yield* read(half)]
  for (const [tensor, length] of [[first, m * n] as const, [second, (m * n) / 2] as const])
    assert.isTrue(
      tensor.subarray(length).every((v) => v === Math.fround(mark)),
      "past the end of out"
    )
  return {
    ...{ first: first.slice(0, m * n), second: second.slice(0, (m * n) / 2) },
    expected: matmul("NT", { ...all, ...plain }),
    gated: swiglu(matmul("NT", all), m, n / 2)
  }
}, Effect.scoped)

layer(DeviceLayer)("products that norm their rows", (it) => {
  for (const storage of ["f32", "f16", "int8", "int4"] as const) {
    it.effect(
      `${storage}: as norm and product, gated as gate and up; odd shapes, rows of any size`,
      () =>
        Effect.gen(function* () {
          const { info } = yield* Gpu
          if (unusable(asHardware(info), "gemv") !== undefined) return
          // As many rows as one kernel takes: unrolled blocks are slow to compile.
          const m = { f32: 3, f16: 2, int8: 2, int4: 1 }[storage]
          const shapes = [
            [{ storage, m, n: 38, k: 100, k2: 12 }, 1],
            [{ storage, m, n: 2, k: 4, k2: 0 }, 300],
            [{ storage, m, n: 10, k: 260, k2: 4 }, 1e-3]
          ] as const
          for (const [c, size] of shapes) {
            const { expected, first, gated, second } = yield* run(c, size)
            assertClose(`${storage} ${c.m}x${c.n}x${c.k}`, first, expected, 1e-5)
            assertClose(`${storage} ${c.m}x${c.n}x${c.k} gated`, second, gated, 2e-5)
          }
        }),
      compileTime
    )
  }

  it.effect(
    "a row's bits do not depend on the others, and the passes one after the other agree",
    () =>
      Effect.gen(function* () {
        const gpu = yield* Gpu
        if (unusable(asHardware(gpu.info), "gemv") !== undefined) return
        const [rows, n, k] = [8, 38, 100]
        const ops = makeOps(asHardware(gpu.info), onlyVariant("gemv"))
        const random = seeded(5)
        const b = yield* allocMatrix("b", "f32", n, k)
        yield* writeRows(b, 0, n, packRows("f32", random.floats(n * k), n, k))
        const a = random.floats(rows * k)
        const weight = yield* f32("gain", random.floats(k))
        const results: Array<readonly [Float32Array<ArrayBuffer>, Float32Array<ArrayBuffer>]> = []
        for (const m of [3, 8]) {
          const x = yield* f32("a", a.subarray(0, m * k))
          const [out, half] = [yield* f32("out", new Float32Array(m * n)), yield* f32("half", new Float32Array(m * n))]
          const common = { a: x, b, m, n, k, capacity: 8, norm: { weight, eps } }
          yield* gpu.submit("test", (tape) => {
            ops.matmulNT(tape, { ...common, out })
            ops.matmulNT(tape, { ...common, out: half, gated: true })
          })
          results.push([(yield* read(out)).slice(0, 3 * n), (yield* read(half)).slice(0, (3 * n) / 2)])
        }
        for (const i of [0, 1] as const) assertSameBits("three rows and eight", results[0]![i], results[1]![i])
        const x = yield* f32("a", a.subarray(0, 3 * k))
        const [y, rstd] = [yield* f32("y", new Float32Array(3 * k)), yield* f32("rstd", new Float32Array(3))]
        const [gu, act] = [yield* f32("gu", new Float32Array(3 * n)), yield* f32("act", new Float32Array((3 * n) / 2))]
        yield* gpu.submit("test", (tape) => {
          ops.rmsNorm(tape, { x, w: weight, y, rstd, rows: 3, dim: k, eps })
          ops.matmulNT(tape, { a: y, b, out: gu, m: 3, n, k, capacity: 8 })
          ops.swiglu(tape, { gu, y: act, rows: 3, dim: n / 2 })
        })
        assertClose("normed first", results[0]![0], yield* read(gu), 1e-5)
        assertClose("gated after", results[0]![1], yield* read(act), 1e-5)
      }).pipe(Effect.scoped),
    compileTime
  )

  it.effect("what a product cannot take along is refused with its shape", () =>
    Effect.gen(function* () {
      const gpu = yield* Gpu
      const t = yield* f32("t", new Float32Array(256))
      const o = yield* f32("o", new Float32Array(256))
      const ops = makeOps(asHardware(gpu.info), onlyVariant("gemv"))
      const norm = { weight: t, eps }
      const few: MatmulArgs = { a: t, b: t, out: o, m: 2, n: 8, k: 8, capacity: 8, norm }
      const { capacity: _, ...undeclared } = few
      const { norm: __, ...bare } = few
      for (const args of [undeclared, { ...few, residual: t }, { ...bare, gated: true }, { ...few, k: 7 }]) {
        const error = yield* Effect.flip(gpu.submit("test", (tape) => ops.matmulNT(tape, args)))
        assert.include(error.message, `[2, ${args.k}] x [${args.k}, 8]`)
        assert.include(error.message, "taken along")
      }
      for (const args of [{ bias: t }, { accumulate: true }]) {
        const refused = gpu.submit("test", (tape) => ops.matmulNT(tape, { ...few, gated: true, ...args }))
        assert.include((yield* Effect.flip(refused)).message, "taken along")
      }
      const small = { weight: { ...t, length: 7 }, eps }
      const short = gpu.submit("test", (tape) => ops.matmulNT(tape, { ...few, norm: small }))
      assert.include((yield* Effect.flip(short)).message, "norm (t) holds 7 elements")
      const tiled = makeOps(asHardware(gpu.info), onlyVariant("tiled"))
      assert.deepStrictEqual(tiled.fused(few), { norm: false, gated: false })
      assert.deepStrictEqual(ops.fused({ ...few, n: 7 }), { norm: true, gated: false })
    }).pipe(Effect.scoped)
  )

  it.effect("a weight in parts is normed by each, and gated by none", () =>
    Effect.gen(function* () {
      const gpu = yield* Gpu
      if (unusable(asHardware(gpu.info), "gemv") !== undefined) return
      const [m, n, k] = [2, 130, 8]
      const small = { ...gpu.info, limits: { ...gpu.info.limits, maxStorageBufferBindingSize: 64 * k * 4 } }
      const ops = makeOps(asHardware(gpu.info), onlyVariant("gemv"))
      const random = seeded(6)
      const [a, values, gain] = [random.floats(m * k), random.floats(n * k), random.floats(k)]
      const b = yield* allocMatrix("b", "f32", n, k).pipe(Effect.provideService(Gpu, Gpu.of({ ...gpu, info: small })))
      assert.lengthOf(b.parts, 3)
      yield* writeRows(b, 0, n, packRows("f32", values, n, k))
      const norm = { weight: yield* f32("gain", gain), eps }
      const args = {
        a: yield* f32("a", a),
        b,
        m,
        n,
        k,
        capacity: 4,
        norm,
        out: yield* f32("out", new Float32Array(m * n))
      }
      assert.deepStrictEqual(ops.fused(args), { norm: true, gated: false })
      yield* gpu.submit("test", (tape) => ops.matmulNT(tape, args))
      const expected = matmul("NT", { a: rmsNorm(a, gain, m, k, eps).y, b: values, m, n, k })
      assertClose("parts", yield* read(args.out), expected, 1e-5)
    }).pipe(Effect.scoped)
  )
})

describe("where a norm rides along", () => {
  const bare: AdapterInfo = {
    ...{ name: "", vendor: "", architecture: "", driver: "", backend: "vulkan", software: false },
    features: ["shader-f16", "subgroups", "subgroup-size-control"],
    limits: { maxComputeWorkgroupStorageSize: 32768, maxComputeInvocationsPerWorkgroup: 256 },
    subgroupSize: [32, 32],
    subgroupMatrixConfigs: []
  }
  const card = asCard(bare)
  const shape = { layout: "NT", storage: "f16", n: 4096, k: 4096, k2: 0, stride: 4096, capacity: 8 } as const

  it("is where gemv is taken for a declared number of rows", () => {
    assert.isTrue(fusesNorm(card, undefined, shape))
    assert.isFalse(fusesNorm(card, undefined, { ...shape, capacity: undefined }))
    assert.isFalse(fusesNorm(card, undefined, { ...shape, capacity: 9 }))
    assert.isTrue(fusesNorm(card, { byClass: { "NT.some.f16": "gemv" } }, { ...shape, capacity: 16 }))
    assert.isFalse(fusesNorm(card, { byClass: { "NT.few.f16": "register64" } }, shape))
    assert.isFalse(fusesNorm(card, undefined, { ...shape, k2: 6 }))
    assert.isFalse(fusesNorm({ ...card, software: true, subgroupSize: [8, 8] }, undefined, shape))
    for (const v of matmulVariants) {
      assert.strictEqual(fusesNorm(card, onlyVariant(v), shape), v === "gemv" || unusable(card, v) !== undefined, v)
      assert.isFalse(fusesNorm(card, onlyVariant(v), { ...shape, layout: "NN" }), v)
    }
  })
})
