/**
 * Kernels on a device that brings indices past the end of a buffer or array back inside, and on one that does not: none may depend on
 * it. A few pipelines that compile quickly, at shapes past the edges of their tiles; bench/gpu-check compares all of them.
 */
import { assert, layer } from "@effect/vitest"
import { Effect } from "effect"
import {
  allocMatrix,
  Gpu,
  GpuDawn,
  makeOps,
  onlyVariant,
  packRows,
  pageSize,
  type Storage,
  writeRows
} from "../src/index.ts"
import { asHardware, assertSameBits, blank, DeviceLayer, f32, read, seeded, u32 } from "./support.ts"

/** One product of a rung with all that rides along, in odd shapes. */
const product = Effect.fnUntraced(function* (variant: "tiled" | "gemv" | "subgroup", storage: Storage, m: number) {
  const gpu = yield* Gpu
  const info = variant === "subgroup" ? gpu.info : asHardware(gpu.info)
  const ops = makeOps(info, onlyVariant(variant))
  const random = seeded(m)
  const [n, k, k2] = [variant === "tiled" ? 67 : 68, variant === "tiled" ? 35 : 72, 4]
  const b = yield* allocMatrix("b", storage, n, k)
  yield* writeRows(b, 0, n, packRows(storage, random.floats(n * k), n, k))
  const out = yield* blank("out", m * n)
  const args = {
    ...{ a: yield* f32("a", random.floats(m * k)), b, out, m, n, k, bias: yield* f32("bias", random.floats(n)) },
    residual: yield* f32("residual", random.floats(m * n)),
    extra: { a: yield* f32("a2", random.floats(m * k2)), b: yield* f32("b2", random.floats(n * k2)), k: k2 }
  }
  yield* gpu.submit("product", (tape) => ops.matmulNT(tape, args))
  return yield* read(out)
}, Effect.scoped)

const normAndGather = Effect.gen(function* () {
  const gpu = yield* Gpu
  const ops = makeOps(asHardware(gpu.info))
  const random = seeded(5)
  const [rows, dim, vocab] = [5, 132, 9]
  const [table, x] = [yield* f32("table", random.floats(vocab * dim)), yield* blank("x", rows * dim)]
  const id = yield* u32("id", random.integers(rows, vocab))
  const [y, rstd] = [yield* blank("y", rows * dim), yield* blank("rstd", rows)]
  const w = yield* f32("w", random.floats(dim))
  yield* gpu.submit("norm", (tape) => {
    ops.gatherRows(tape, { table, id, out: x, rows, dim })
    ops.rmsNorm(tape, { x, w, y, rstd, rows, dim, eps: 1e-6 })
  })
  return yield* read(y)
}).pipe(Effect.scoped)

const paged = Effect.gen(function* () {
  const gpu = yield* Gpu
  const ops = makeOps(gpu.info)
  const random = seeded(6)
  const [rows, heads, kvHeads, headDim, maxPages] = [3, 6, 2, 20, 2]
  const width = kvHeads * headDim
  const cache = () => f32("cache", random.floats((rows * maxPages + 1) * pageSize * width))
  const o = yield* blank("o", rows * heads * headDim)
  const own = {
    ...{ rows, heads, kvHeads, headDim, maxPages, o },
    ...{ q: yield* f32("q", random.floats(rows * heads * headDim)), k: yield* cache(), v: yield* cache() },
    pageTable: yield* u32("pages", [6, 5, 4, 3, 2, 1]),
    slot: yield* u32("slot", [0, 1, 2]),
    position: yield* u32("position", [0, pageSize, 2 * pageSize - 2])
  }
  yield* gpu.submit("paged", (tape) => ops.attentionPaged(tape, own))
  return yield* read(o)
}).pipe(Effect.scoped)

layer(DeviceLayer)("robustness", (it) => {
  it.effect(
    "on and off give the same bits",
    () =>
      Effect.gen(function* () {
        const bare = yield* GpuDawn.open({ device: "auto", disable_robustness: true })
        const { info } = yield* Gpu
        const work: Array<readonly [string, Effect.Effect<Float32Array<ArrayBuffer>, unknown, Gpu>]> = [
          ["tiled", product("tiled", "f32", 65)],
          ["gemv", product("gemv", "f16", 3)],
          ["subgroup, few rows", product("subgroup", "f16", 3)],
          ["norm and gather", normAndGather],
          ["paged attention", paged]
        ]
        for (const [name, run] of work) {
          // Subgroups of the size that these need are not everywhere.
          if (name.startsWith("subgroup") && !info.features.includes("subgroups")) continue
          const [a, b] = [yield* run, yield* Effect.provideService(run, Gpu, bare)]
          assert.isAbove(new Set(a).size, a.length / 2, name)
          assert.isTrue(a.every(Number.isFinite), name)
          assertSameBits(name, a, b)
        }
      }).pipe(Effect.scoped),
    600_000
  )
})
