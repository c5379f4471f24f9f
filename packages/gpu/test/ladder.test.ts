/**
 * The rungs of the matmul ladder that a software driver can run, against the f64 oracle, past every edge of a tile. Operands end in numbers
 * that are none and results in a mark, so that reading or writing past the end shows.
 */
import { assert, describe, it, layer } from "@effect/vitest"
import { matmul } from "@srcode/kernels/matmul/reference"
import { unpackF16, unpackF16Tiles, unpackInt4, unpackInt8 } from "@srcode/kernels/weight/reference"
import { Effect } from "effect"
import {
  type AdapterInfo,
  allocMatrix,
  Gpu,
  type Layout,
  type MatmulArgs,
  type MatmulVariant,
  makeOps,
  matmulRungs,
  matmulVariants,
  onlyVariant,
  packRows,
  pickVariant,
  type Storage,
  splitsOf,
  strideOf,
  unusable,
  writeRows
} from "../src/index.ts"
import { asCard, asHardware, assertClose, assertSameBits, DeviceLayer, f32, read, seeded } from "./support.ts"

/** A software driver on a busy machine compiles each unrolled tile for seconds, once per machine. */
const compileTime = 600_000
const mark = 12345.678
const tail = 64

interface Case {
  readonly variant: MatmulVariant
  readonly layout: Layout
  readonly storage: Storage
  readonly m: number
  readonly n: number
  readonly k: number
  readonly k2?: number
  readonly most?: number
}

const opsWith = (variant: MatmulVariant) =>
  Effect.map(Gpu, ({ info }) => makeOps(asHardware(info), onlyVariant(variant)))

const poisoned = (values: Float32Array) => Float32Array.from([...values, ...new Array<number>(tail).fill(Number.NaN)])

const meaning = (storage: Storage, values: Float32Array<ArrayBuffer>, rows: number, cols: number): Float64Array => {
  const { data, scales } = packRows(storage, values, rows, cols)
  const stride = strideOf(storage, cols)
  if (storage === "f32") return Float64Array.from(values)
  if (storage === "f16") return unpackF16(data, rows, cols, stride)
  if (storage === "f16_tiles") return unpackF16Tiles(data, rows, cols, stride)
  if (storage === "int8") return unpackInt8(data, new Float32Array(scales.buffer), rows, cols, stride)
  return unpackInt4(data, scales, rows, cols, stride)
}

/** Runs one product with every epilogue the layout has and returns it with what it should be. */
const run = Effect.fn("test.run")(function* (c: Case, values?: Float32Array<ArrayBuffer>) {
  const gpu = yield* Gpu
  const { k, layout, m, n, storage, variant } = c
  const ops = yield* opsWith(variant)
  const random = seeded(m * 7 + n * 3 + k)
  const a = values ?? random.floats(m * k)
  const weights = random.floats(k * n, 0.2)
  const [rows, cols] = layout === "NT" ? [n, k] : [k, n]
  const held = meaning(storage, weights, rows, cols)
  const k2 = layout === "TN" ? 0 : (c.k2 ?? 0)
  const more = { a: random.floats(m * k2), b: random.floats(n * k2, 0.2), k: k2 }
  const [bias, residual, previous] = [random.floats(n), random.floats(m * n), random.floats(m * n)]
  const once = layout !== "TN"
  const out = yield* f32("out", [...previous, ...new Array<number>(tail).fill(mark)])
  const dense = storage === "f32" ? yield* f32("b", poisoned(weights)) : undefined
  const matrix = yield* allocMatrix("b", storage, rows, cols)
  yield* writeRows(matrix, 0, rows, packRows(storage, weights, rows, cols))
  const args: MatmulArgs = {
    a: yield* f32("a", poisoned(a)),
    b: dense ?? matrix,
    out,
    m,
    n,
    k,
    alpha: 0.75,
    accumulate: true,
    ...(c.most === undefined ? {} : { capacity: c.most }),
    ...(once ? { bias: yield* f32("bias", poisoned(bias)), residual: yield* f32("residual", poisoned(residual)) } : {}),
    ...(k2 > 0
      ? { extra: { a: yield* f32("a2", poisoned(more.a)), b: yield* f32("b2", poisoned(more.b)), k: k2 } }
      : {})
  }
  const kernels: Array<string> = []
  yield* gpu.submit("test", (tape) => {
    if (layout === "NT") ops.matmulNT(tape, args)
    else if (layout === "NN") ops.matmulNN(tape, args)
    else ops.matmulTN(tape, args)
    for (const entry of tape.entries) if (entry._tag === "Dispatch") kernels.push(entry.dispatch.kernel)
  })
  const all = yield* read(out)
  const extra = k2 > 0 ? more : undefined
  const expected = matmul(layout, {
    ...{ a, b: held, m, n, k, alpha: 0.75, previous, extra },
    ...(once ? { bias, residual } : {})
  })
  assert.deepStrictEqual([...all.subarray(m * n)], [...new Float32Array(tail).fill(mark)], "past the end of out")
  return { actual: all.slice(0, m * n), expected, kernels, held }
}, Effect.scoped)

const name = (c: Case) => `${c.variant} ${c.layout} ${c.storage} ${c.m}x${c.n}x${c.k}+${c.k2 ?? 0}`

const verify = (c: Case, tolerance: number) =>
  Effect.gen(function* () {
    const { actual, expected, kernels } = yield* run(c)
    const { family } = matmulRungs[c.variant]
    assert.isTrue(
      kernels.some((k) => k.startsWith(`matmul_${family}`)),
      `${name(c)} ran ${kernels.join(", ")}`
    )
    assertClose(name(c), actual, expected, tolerance)
  })

/** One output, exact tiles, and each dimension just past the edge of a tile and of a panel. */
const shapes = [
  { m: 1, n: 4, k: 4 },
  { m: 64, n: 64, k: 32 },
  { m: 65, n: 68, k: 36, k2: 12 },
  { m: 3, n: 132, k: 20, k2: 4 },
  { m: 131, n: 8, k: 300, k2: 20 }
]

/** Every kernel and every layout of a family; quads of more than one row and column, which half128 shares with register128, once. */
const tiles: ReadonlyArray<readonly [MatmulVariant, Layout, Storage]> = [
  ["register64", "NN", "f32"],
  ["register64", "NN", "f16"],
  ["register64", "NT", "int8"],
  ["register64", "NN", "int4"],
  ["register128", "NT", "f16"],
  ["register256x16", "NT", "f32"],
  ["register16x256", "TN", "f32"],
  ["half64", "NT", "f32"],
  ["half64", "NT", "f16"],
  ["half64", "NN", "int8"],
  ["half64", "NT", "int4"],
  ["half64", "TN", "f32"]
]

layer(DeviceLayer)("rungs of the matmul ladder", (it) => {
  for (const [variant, layout, storage] of tiles) {
    it.effect(
      `${variant} ${layout} ${storage}`,
      () =>
        Effect.gen(function* () {
          const tolerance = variant.startsWith("half") ? 2e-3 : 1e-5
          for (const s of shapes) {
            // The general tile takes what these do not; see pickVariant below.
            const m = layout === "TN" && variant.startsWith("register") ? Math.ceil(s.m / 4) * 4 : s.m
            yield* verify({ ...s, m, variant, layout, storage }, tolerance)
          }
        }),
      compileTime
    )
  }

  for (const storage of ["f32", "f16", "int8", "int4"] as const) {
    it.effect(
      `gemv ${storage}: a row's bits do not depend on the others`,
      () =>
        Effect.gen(function* () {
          const gpu = yield* Gpu
          if (unusable(asHardware(gpu.info), "gemv") !== undefined) return
          const c = { variant: "gemv", layout: "NT", storage, n: 37, k: 100, k2: 12, most: 8 } as const
          // Texts differ in how they read b, which is the same for each number of rows; those of eight take long to compile.
          const [few, many] = storage === "f32" || storage === "f16" ? [2, 8] : [1, 2]
          for (const m of storage === "f16" ? [1, 2, 5, 8] : [few, many])
            yield* verify({ ...c, m, ...(m === many ? { n: 5, k: 260 } : {}) }, 1e-5)
          const random = seeded(4)
          const a = random.floats(8 * 100)
          const b = yield* allocMatrix("b", storage, 37, 100)
          yield* writeRows(b, 0, 37, packRows(storage, random.floats(37 * 100), 37, 100))
          const ops = yield* opsWith("gemv")
          const results: Array<Float32Array<ArrayBuffer>> = []
          for (const m of [few, many]) {
            const [x, out] = [yield* f32("a", a.subarray(0, m * 100)), yield* f32("out", new Float32Array(m * 37))]
            yield* gpu.submit("test", (tape) => ops.matmulNT(tape, { a: x, b, out, m, n: 37, k: 100, capacity: 8 }))
            results.push((yield* read(out)).slice(0, few * 37))
          }
          assertSameBits(`${few} and ${many} rows`, results[0]!, results[1]!)
        }).pipe(Effect.scoped),
      compileTime
    )
  }

  for (const [variant, layout] of [
    ["register64", "NN"],
    ["gemv", "NT"]
  ] as const) {
    it.effect(
      `${variant}: weights in tiles of 16 x 16 give the bits of weights in rows`,
      () =>
        Effect.gen(function* () {
          const gpu = yield* Gpu
          if (unusable(asHardware(gpu.info), variant) !== undefined) return
          const most = variant === "gemv" ? { most: 8 } : {}
          for (const s of [
            { m: 2, n: 36, k: 100, k2: 12 },
            { m: variant === "gemv" ? 2 : 8, n: 4, k: 260 }
          ]) {
            const c = { ...s, ...most, variant, layout }
            const [rows, tiles] = [yield* run({ ...c, storage: "f16" }), yield* run({ ...c, storage: "f16_tiles" })]
            assert.isTrue(tiles.kernels.some((k) => k.endsWith("_f16_tiles")))
            assertSameBits(`${variant} ${s.n}x${s.k}`, tiles.actual, rows.actual)
            assertClose(variant, tiles.actual, tiles.expected, 2e-3)
          }
        }),
      compileTime
    )
  }

  it.effect(
    "16-bit tiles: outliers of 1e4 to 1e6, tiny rows and rows of zeros keep the precision of their row",
    () =>
      Effect.gen(function* () {
        const [m, n, k] = [70, 68, 64]
        const random = seeded(9)
        const a = random.floats(m * k)
        for (let i = 0; i < m; i++) {
          const scale = i === 5 ? 0 : 10 ** random.integer(13) * 1e-10
          for (let l = 0; l < k; l++) a[i * k + l]! *= scale
          if (i % 3 === 0) a[i * k + random.integer(k)] = 10 ** (4 + random.integer(3)) * (random.next() < 0.5 ? -1 : 1)
        }
        const c = { variant: "half64", layout: "NT", storage: "f16", m, n, k } as const
        const { actual, held, expected } = yield* run(c, a)
        for (let i = 0; i < m; i++) {
          for (let j = 0; j < n; j++) {
            let magnitude = 0
            for (let l = 0; l < k; l++) magnitude += Math.abs(0.75 * a[i * k + l]! * held[j * k + l]!)
            const y = expected[i * n + j]!
            // Half a unit of 16 bits for each summand, and f32 for the epilogue.
            const bound = magnitude * 2 ** -11 * 1.01 + 4 * 2 ** -22
            assert.isAtMost(Math.abs(actual[i * n + j]! - y), bound + Math.abs(y) * 2 ** -22, `row ${i}, column ${j}`)
          }
        }
        // A number that is not finite stays in its row.
        a[3 * k + 7] = Number.POSITIVE_INFINITY
        const { actual: broken } = yield* run(c, a)
        for (let i = 0; i < m; i++) {
          const row = broken.subarray(i * n, (i + 1) * n)
          if (i === 3) assert.isTrue(row.every((v) => !Number.isFinite(v)))
          else assert.deepStrictEqual([...row], [...actual.subarray(i * n, (i + 1) * n)])
        }
      }),
    compileTime
  )

  it.effect(
    "a split product: rows keep their bits whatever their number",
    () =>
      Effect.gen(function* () {
        const gpu = yield* Gpu
        const [n, k] = [8, 520]
        const random = seeded(10)
        const a = random.floats(40 * k)
        const b = yield* f32("b", random.floats(n * k))
        const ops = yield* opsWith("register256x16")
        const results: Array<Float32Array<ArrayBuffer>> = []
        for (const m of [3, 40]) {
          const [x, out] = [yield* f32("a", a.subarray(0, m * k)), yield* f32("out", new Float32Array(m * n))]
          yield* gpu.submit("test", (tape) => {
            ops.matmulNT(tape, { a: x, b, out, m, n, k })
            const kernels = tape.entries.map((e) => (e._tag === "Dispatch" ? e.dispatch.kernel : ""))
            assert.deepStrictEqual(kernels, ["matmul_register", "matmul_split_finish"])
          })
          results.push((yield* read(out)).slice(0, 3 * n))
        }
        assertSameBits("three rows and forty", results[0]!, results[1]!)
      }).pipe(Effect.scoped),
    compileTime
  )
})

describe("choice of a rung", () => {
  const bare: AdapterInfo = {
    ...{ name: "", vendor: "", architecture: "", driver: "", backend: "vulkan", software: false, features: [] },
    limits: { maxComputeWorkgroupStorageSize: 32768, maxComputeInvocationsPerWorkgroup: 256 },
    subgroupSize: [0, 0],
    subgroupMatrixConfigs: []
  }
  const card = asCard({ ...bare, features: ["shader-f16", "subgroups", "subgroup-size-control"] })
  const shape = { layout: "NT", storage: "f16", n: 4096, k: 4096, k2: 0, stride: 4096, capacity: undefined } as const

  it("follows features, limits and shapes", () => {
    assert.strictEqual(pickVariant(bare, undefined, shape), "register128")
    assert.strictEqual(pickVariant(bare, undefined, { ...shape, k: 4095 }), "tiled")
    assert.strictEqual(pickVariant({ ...bare, limits: {} }, undefined, shape), "register64")
    assert.strictEqual(pickVariant(bare, undefined, { ...shape, capacity: 8 }), "register64")
    assert.strictEqual(pickVariant(card, undefined, { ...shape, capacity: 8 }), "gemv")
    const chosen = { byClass: { "NT.many.f16": "matrix128", "NT.few.f16": "gemv" } } as const
    assert.strictEqual(pickVariant(bare, chosen, shape), "register128")
    assert.include(unusable(card, "matrix128"), "chromium-experimental-subgroup-matrix")
    const full = { ...card, features: [...card.features, "chromium-experimental-subgroup-matrix"] }
    assert.strictEqual(pickVariant(full, chosen, shape), "matrix128")
    assert.strictEqual(pickVariant(full, chosen, { ...shape, n: 4095 }), "tiled")
    assert.strictEqual(pickVariant({ ...full, subgroupMatrixConfigs: [] }, chosen, shape), "register128")
    const small = { ...full, limits: { ...full.limits, maxComputeWorkgroupStorageSize: 16384 } }
    assert.strictEqual(pickVariant(small, chosen, shape), "register64")
    const wide = { ...full, subgroupSize: [64, 64] as const }
    assert.include(unusable(wide, "matrix64"), "subgroups of 32")
    assert.strictEqual(pickVariant({ ...full, software: true }, undefined, shape), "tiled")
    const tiles = { ...shape, storage: "f16_tiles" } as const
    const straight = { byClass: { "NT.many.f16_tiles": "direct128", "NT.many.f16": "direct128" } } as const
    assert.strictEqual(pickVariant(full, straight, tiles), "direct128")
    assert.strictEqual(pickVariant(full, straight, shape), "register128")
    assert.strictEqual(pickVariant(card, straight, tiles), "register128")
    assert.strictEqual(pickVariant(full, straight, { ...tiles, k: 4094 }), "tiled")
    const lanes = { ...card, software: true, subgroupSize: [8, 8] as const }
    assert.strictEqual(pickVariant(lanes, undefined, shape), "subgroup")
    assert.strictEqual(pickVariant(lanes, undefined, tiles), "tiled")
  })

  it("splits thin products only, and never by rows that are not declared", () => {
    assert.strictEqual(splitsOf("register128", shape, 256), 1)
    assert.isAbove(splitsOf("register64", { ...shape, n: 16 }, 256), 1)
    assert.isAbove(splitsOf("matrix16", { ...shape, capacity: 16, n: 1024 }, 128), 1)
    for (const variant of matmulVariants) {
      for (const n of [4, 64, 1024, 152064]) {
        for (const panels of [1, 7, 8, 100, 4000]) {
          const splits = splitsOf(variant, { ...shape, n, capacity: 16 }, panels)
          assert.isTrue(splits >= 1 && splits <= 32 && splits <= Math.max(1, panels / 8))
        }
      }
    }
  })
})
