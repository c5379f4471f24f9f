/**
 * The matrix-unit kernels where there are no matrix units: their texts with the units' few operations replaced by loops over workgroup memory,
 * everything else as it is. So staging, padding, splits, both halves, epilogues and launches are held against the f64 oracle; what is
 * left to a card is the units themselves.
 */
import { assert, layer } from "@effect/vitest"
import { matmul } from "@srcode/kernels/matmul/reference"
import { unpackF16, unpackF16Tiles, unpackInt4, unpackInt8 } from "@srcode/kernels/weight/reference"
import { Effect } from "effect"
import {
  allocMatrix,
  Gpu,
  type MatmulArgs,
  type MatmulVariant,
  makeOps,
  onlyVariant,
  packRows,
  rungOf,
  type Storage,
  strideOf,
  writeRows
} from "../src/index.ts"
import { EmulatedLayer } from "./matrix-emulation.ts"
import { assertClose, assertSameBits, f32, read, seeded } from "./support.ts"

const cases: ReadonlyArray<readonly [MatmulVariant, "NT" | "NN" | "TN", Storage, tolerance: number]> = [
  ["matrix16", "NT", "f16", 2e-3],
  ["matrix16", "NN", "f32", 2e-3],
  ["matrix16", "NT", "int8", 2e-3],
  ["matrix16", "NN", "int4", 2e-3],
  ["matrix16_halves", "NT", "f16", 2e-3],
  ["direct16", "NT", "f16_tiles", 2e-3],
  ["direct16_ahead", "NN", "f16_tiles", 2e-3],
  ["matrix16_hilo", "NT", "f16", 1e-5],
  // b has one half only; a of one half differs in nothing else and would be a compilation more.
  ["matrix16_hilo", "TN", "f32", 2e-3]
]

const shapes = [
  { m: 1, n: 4, k: 4, k2: 0 },
  { m: 65, n: 68, k: 36, k2: 12 },
  { m: 5, n: 132, k: 68, k2: 4 },
  // Split: thin and deep.
  { m: 33, n: 20, k: 700, k2: 20 }
]

const mark = 12345.678

layer(EmulatedLayer)("matrix-unit kernels on emulated units", (it) => {
  for (const [variant, layout, storage, tolerance] of cases) {
    it.effect(
      `${variant} ${layout} ${storage}`,
      () =>
        Effect.gen(function* () {
          const gpu = yield* Gpu
          const ops = makeOps(gpu.info, onlyVariant(variant))
          for (const { k, k2: wanted, m, n } of shapes) {
            const random = seeded(m + n + k)
            const k2 = layout === "TN" ? 0 : wanted
            const once = layout !== "TN"
            const [a, weights] = [random.floats(m * k), random.floats(k * n, 0.2)]
            const [rows, cols] = layout === "NT" ? [n, k] : [k, n]
            const packed = packRows(storage, weights, rows, cols)
            const stride = strideOf(storage, cols)
            const held =
              storage === "f32"
                ? weights
                : storage === "f16"
                  ? unpackF16(packed.data, rows, cols, stride)
                  : storage === "f16_tiles"
                    ? unpackF16Tiles(packed.data, rows, cols, stride)
                    : storage === "int8"
                      ? unpackInt8(packed.data, new Float32Array(packed.scales.buffer), rows, cols, stride)
                      : unpackInt4(packed.data, packed.scales, rows, cols, stride)
            // The low-rank operands are rounded to 16 bits; that they fit exactly keeps the tolerance of both halves.
            const [a2, b2] = [random.floats(m * k2), random.floats(n * k2).map((v) => Math.round(v * 64) / 64)]
            const [bias, residual, previous] = [random.floats(n), random.floats(m * n), random.floats(m * n)]
            const b = yield* allocMatrix("b", storage, rows, cols)
            yield* writeRows(b, 0, rows, packed)
            const part = b.parts[0]
            const out = yield* f32("out", [...previous, ...new Array<number>(64).fill(mark)])
            const x: MatmulArgs = {
              a: yield* f32("a", [...a, ...new Array<number>(64).fill(Number.NaN)]),
              b: layout === "TN" && part?.storage === "f32" ? part.data : b,
              ...{ out, m, n, k, alpha: 0.75, accumulate: true },
              ...(k === 700 ? { capacity: m } : {}),
              ...(once ? { bias: yield* f32("bias", bias), residual: yield* f32("residual", residual) } : {}),
              ...(k2 > 0 ? { extra: { a: yield* f32("a2", a2), b: yield* f32("b2", b2), k: k2 } } : {})
            }
            yield* gpu.submit("test", (tape) => {
              if (layout === "NT") ops.matmulNT(tape, x)
              else if (layout === "NN") ops.matmulNN(tape, x)
              else ops.matmulTN(tape, x)
              const kernels = tape.entries.map((e) => (e._tag === "Dispatch" ? e.dispatch.kernel : ""))
              assert.isTrue(kernels.some((name) => name.startsWith(`matmul_${rungOf(variant).family}`)))
              assert.strictEqual(kernels.includes("matmul_split_finish"), k === 700)
            })
            const all = yield* read(out)
            const extra = k2 > 0 ? { a: a2, b: b2, k: k2 } : undefined
            const more = once ? { bias, residual } : {}
            const expected = matmul(layout, { a, b: held, m, n, k, alpha: 0.75, previous, extra, ...more })
            assertClose(`${variant} ${layout} ${storage} ${m}x${n}x${k}`, all.slice(0, m * n), expected, tolerance)
            assert.isTrue(all.slice(m * n).every((v) => v === Math.fround(mark)))
          }
        }).pipe(Effect.scoped),
      600_000
    )
  }

  it.effect(
    "tiles give the bits of rows, staged or straight into the units, over parts",
    () =>
      Effect.gen(function* () {
        const gpu = yield* Gpu
        const random = seeded(3)
        const [m, rows, cols, rank] = [9, 132, 84, 4]
        // Held exactly in 16 bits, so that storages mean the same.
        const values = new Float32Array(new Float16Array(random.floats(rows * cols, 0.2)))
        const [x, dy] = [yield* f32("x", random.floats(m * cols)), yield* f32("dy", random.floats(m * rows))]
        const [low, up] = [yield* f32("low", random.floats(m * rank)), yield* f32("up", random.floats(rank * rows))]
        const extra = { a: low, b: up, k: rank }
        const product = Effect.fnUntraced(function* (variant: MatmulVariant, layout: "NT" | "NN", storage: Storage) {
          // A binding that 64 rows fit, so that there are three parts.
          const limits = { ...gpu.info.limits, maxStorageBufferBindingSize: 96 * 96 * (storage === "f32" ? 4 : 2) }
          const small = Gpu.of({ ...gpu, info: { ...gpu.info, limits } })
          const b = yield* allocMatrix("b", storage, rows, cols).pipe(Effect.provideService(Gpu, small))
          assert.lengthOf(b.parts, 3)
          yield* writeRows(b, 0, rows, packRows(storage, values, rows, cols))
          const [n, k] = layout === "NT" ? [rows, cols] : [cols, rows]
          const out = yield* f32("out", new Float32Array(m * n))
          const ops = makeOps(gpu.info, onlyVariant(variant))
          yield* gpu.submit("test", (tape) => {
            if (layout === "NT") ops.matmulNT(tape, { a: x, b, out, m, n, k, extra })
            else ops.matmulNN(tape, { a: dy, b, out, m, n, k, extra })
          })
          return yield* read(out)
        })
        const [y, dx] = [yield* product("matrix16", "NT", "f16"), yield* product("matrix16", "NN", "f32")]
        assertSameBits("staged NT", yield* product("matrix16", "NT", "f16_tiles"), y)
        assertSameBits("direct NT", yield* product("direct16", "NT", "f16_tiles"), y)
        assertSameBits("ahead NN", yield* product("direct16_ahead", "NN", "f16_tiles"), dx)
      }).pipe(Effect.scoped),
    600_000
  )
})
