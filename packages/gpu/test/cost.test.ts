/** The work of a dispatch against closed forms, and against what a loop over the mathematics counts. */
import { assert, describe, it, layer } from "@effect/vitest"
import { Effect } from "effect"
import {
  type AdapterInfo,
  allocMatrix,
  type Cost,
  costOf,
  type Dispatch,
  Gpu,
  GpuDawn,
  makeOps,
  type Ops,
  shapeOf,
  Tape
} from "../src/index.ts"

/** What one op records for a device of this kind. */
const dispatches = (info: AdapterInfo, body: (tape: Tape, ops: Ops) => void): ReadonlyArray<Dispatch> => {
  const tape = new Tape()
  body(tape, makeOps(info))
  assert.isUndefined(tape.failure, tape.failure?.message)
  return tape.entries.flatMap((entry) => (entry._tag === "Dispatch" ? [entry.dispatch] : []))
}

const total = (list: ReadonlyArray<Dispatch>, keysPerQuery?: number): Cost =>
  list
    .map((d) => costOf(d, keysPerQuery === undefined ? {} : { keysPerQuery }))
    .reduce((a, b) => ({ flops: a.flops + b.flops, bytes: a.bytes + b.bytes, estimated: a.estimated || b.estimated }))

const kinds = (info: AdapterInfo): ReadonlyArray<AdapterInfo> => [
  { ...info, software: true, subgroupSize: [8, 8] },
  { ...info, software: true, subgroupSize: [0, 0] },
  { ...info, software: false },
  {
    ...info,
    software: false,
    subgroupSize: [32, 32],
    subgroupMatrixConfigs: [{ componentType: "f16", resultComponentType: "f32", M: 16, N: 16, K: 16 }],
    limits: { ...info.limits, maxComputeWorkgroupStorageSize: 49_152, maxComputeInvocationsPerWorkgroup: 1024 }
  }
]

layer(GpuDawn.layerNull)("cost of a dispatch", (it) => {
  it.effect("products: two operations a multiply-add, each operand once, on every kind of device", () =>
    Effect.gen(function* () {
      const gpu = yield* Gpu
      const t = yield* gpu.alloc("in", "f32", 1 << 16)
      const out = yield* gpu.alloc("out", "f32", 1 << 16)
      const [m, n, k, k2] = [24, 40, 64, 8]
      for (const info of kinds(gpu.info)) {
        for (const layout of ["matmulNT", "matmulNN", "matmulTN"] as const) {
          const plain = total(dispatches(info, (tape, ops) => ops[layout](tape, { a: t, b: t, out, m, n, k })))
          assert.deepStrictEqual(plain, {
            flops: 2 * m * n * k,
            bytes: 4 * (m * k + n * k + m * n),
            estimated: false
          })
        }
        const all = dispatches(info, (tape, ops) =>
          ops.matmulNT(tape, {
            ...{ a: t, b: t, out, m, n, k, bias: t, residual: t, accumulate: true },
            extra: { a: t, b: t, k: k2 }
          })
        )
        assert.strictEqual(total(all).flops, 2 * m * n * (k + k2))
        assert.strictEqual(total(all).bytes, 4 * (m * k + n * k + k2 * (m + n) + 3 * m * n + n))
        assert.deepStrictEqual(all.map(shapeOf), ["24 x 40 x 64+8"])
      }
    })
  )

  it.effect("a product that norms its rows and gates costs what the three do, but for what lies between them", () =>
    Effect.gen(function* () {
      const gpu = yield* Gpu
      const t = yield* gpu.alloc("in", "f32", 1 << 14)
      const out = yield* gpu.alloc("out", "f32", 1 << 14)
      const rstd = yield* gpu.alloc("rstd", "f32", 64)
      const [m, n, k, k2] = [3, 40, 64, 8]
      const info = { ...gpu.info, software: false, subgroupSize: [32, 32] as const }
      const args = { a: t, b: t, out, m, n, k, capacity: 4, extra: { a: t, b: t, k: k2 } }
      const norm = { weight: t, eps: 1e-6 }
      const kernels = dispatches({ ...info, features: [...info.features, "subgroups"] }, (tape, ops) => {
        ops.matmulNT(tape, { ...args, norm, gated: true })
        ops.matmulNT(tape, args)
        ops.rmsNorm(tape, { x: t, w: t, y: out, rstd, rows: m, dim: k, eps: 1e-6 })
        ops.swiglu(tape, { gu: t, y: out, rows: m, dim: n / 2 })
      })
      assert.strictEqual(kernels[0]?.kernel, "matmul_gemv_norm")
      const fused = total(kernels.slice(0, 1))
      assert.strictEqual(fused.flops, total(kernels.slice(1)).flops)
      assert.strictEqual(fused.bytes, 4 * (m * k + n * k + k2 * (m + n) + (m * n) / 2 + k))
    })
  )

  it.effect("packed weights: the bytes that the matrix takes on the device, scales included", () =>
    Effect.gen(function* () {
      const gpu = yield* Gpu
      const t = yield* gpu.alloc("in", "f32", 1 << 16)
      const out = yield* gpu.alloc("out", "f32", 1 << 16)
      const [m, n, k] = [3, 64, 96]
      for (const storage of ["f16", "f16_tiles", "int8", "int4"] as const) {
        const { live } = yield* gpu.memory
        const b = yield* allocMatrix(storage, storage, n, k)
        const weight = (yield* gpu.memory).live - live
        for (const info of kinds(gpu.info)) {
          const nt = total(dispatches(info, (tape, ops) => ops.matmulNT(tape, { a: t, b, out, m, n, k })))
          assert.strictEqual(nt.bytes, weight + 4 * (m * k + m * n), storage)
          const nn = total(dispatches(info, (tape, ops) => ops.matmulNN(tape, { a: t, b, out, m, n: k, k: n })))
          assert.strictEqual(nn.bytes, weight + 4 * (m * k + m * n), storage)
          assert.strictEqual(nn.flops, 2 * m * n * k)
        }
      }
    })
  )

  it.effect("a weight in several parts costs what the whole does, but for the rows it is multiplied with", () =>
    Effect.gen(function* () {
      const gpu = yield* Gpu
      const small = { ...gpu.info, limits: { ...gpu.info.limits, maxStorageBufferBindingSize: 64 * 32 * 4 } }
      const t = yield* gpu.alloc("in", "f32", 1 << 14)
      const out = yield* gpu.alloc("out", "f32", 1 << 14)
      const [m, n, k] = [4, 192, 32]
      const b = yield* allocMatrix("b", "f32", n, k).pipe(Effect.provideService(Gpu, Gpu.of({ ...gpu, info: small })))
      assert.lengthOf(b.parts, 3)
      const cost = total(dispatches(gpu.info, (tape, ops) => ops.matmulNT(tape, { a: t, b, out, m, n, k })))
      assert.strictEqual(cost.flops, 2 * m * n * k)
      assert.strictEqual(cost.bytes, 4 * (n * k + m * n + 3 * m * k))
    })
  )

  it.effect("attention: multiply-adds of every pair of query and key that a loop over packed sequences visits", () =>
    Effect.gen(function* () {
      const gpu = yield* Gpu
      const f = yield* gpu.alloc("in", "f32", 1 << 16)
      const u = yield* gpu.alloc("index", "u32", 64)
      const [o, p, q, s] = [
        yield* gpu.alloc("o", "f32", 1 << 16),
        yield* gpu.alloc("p", "f32", 1 << 16),
        yield* gpu.alloc("q", "f32", 1 << 16),
        yield* gpu.alloc("s", "f32", 1 << 16)
      ] as const
      const lengths = [5, 1, 9]
      const rows = lengths.reduce((a, b) => a + b, 0)
      let pairs = 0
      const reached = new Set<string>()
      for (const length of lengths) for (let i = 0; i < length; i++) for (let j = 0; j <= i; j++) pairs++
      for (const headDim of [24, 64, 128]) {
        const shape = { rows, heads: 4, kvHeads: 2, headDim }
        for (const info of kinds(gpu.info)) {
          const forward = dispatches(info, (tape, ops) =>
            ops.attention(tape, { ...shape, q: f, k: f, v: f, kvStart: u, kvEnd: u, o, stat: p, packed: true })
          )
          const one = total(forward, pairs / rows)
          for (const { kernel } of forward) reached.add(kernel)
          // q·k and p·v.
          assert.closeTo(one.flops, 2 * 2 * pairs * 4 * headDim, 1e-6 * one.flops)
          assert.strictEqual(one.bytes, 4 * (rows * headDim * (4 + 4 + 2 + 2) + 2 * rows * 4 + 2 * rows))
          const backward = total(
            dispatches(info, (tape, ops) =>
              ops.attentionBackward(tape, {
                ...{ ...shape, q: f, k: f, v: f, kvStart: u, qEnd: u, o: f, dO: f, stat: p },
                ...{ dq: o, dk: q, dv: s }
              })
            ),
            pairs / rows
          )
          // Both kernels recompute q·k and dO·v; dq, dk and dv are one product each; dO·o for the row sums.
          const products = 2 * 7 * pairs * 4 * headDim + 2 * rows * 4 * headDim
          assert.closeTo(backward.flops, products, 1e-6 * products)
          const paged = dispatches(info, (tape, ops) =>
            ops.attentionPaged(tape, { ...shape, q: f, k: f, v: f, pageTable: u, maxPages: 4, slot: u, position: u, o })
          )
          assert.strictEqual(total(paged, 7).flops, 2 * 2 * rows * 7 * 4 * headDim)
          assert.strictEqual(total(paged, 7).bytes, 4 * (rows * headDim * (8 + 2 * 2 * 7) + 2 * rows))
        }
      }
      const names = ["attention_forward_packed", "attention_forward_flash", "attention_forward_matrix"]
      assert.includeMembers([...reached], names)
    })
  )

  it.effect("by row and by element: what each operation reads and writes", () =>
    Effect.gen(function* () {
      const gpu = yield* Gpu
      const f = yield* gpu.alloc("in", "f32", 1 << 15)
      const u = yield* gpu.alloc("index", "u32", 1 << 10)
      const w = yield* gpu.alloc("weights", "u32", 1 << 12)
      const [o, p, q] = [
        yield* gpu.alloc("o", "f32", 1 << 15),
        yield* gpu.alloc("p", "f32", 1 << 15),
        yield* gpu.alloc("q", "f32", 1 << 15)
      ] as const
      const half = yield* allocMatrix("half", "f16", 100, 16)
      const [rows, dim] = [12, 16]
      const size = rows * dim
      /** Elements that each recording moves. */
      const cases: ReadonlyArray<readonly [string, number, (tape: Tape, ops: Ops) => void]> = [
        [
          "rmsNorm",
          2 * size + dim + rows,
          (tape, ops) => ops.rmsNorm(tape, { x: f, w: f, y: o, rstd: p, rows, dim, eps: 1e-6 })
        ],
        [
          "rmsNormBackward",
          4 * size + dim + rows,
          (tape, ops) => ops.rmsNormBackward(tape, { x: f, w: f, rstd: f, dy: f, dx: o, rows, dim, accumulate: true })
        ],
        ["swiglu", 3 * size, (tape, ops) => ops.swiglu(tape, { gu: f, y: o, rows, dim })],
        ["swigluBackward", 5 * size, (tape, ops) => ops.swigluBackward(tape, { gu: o, dy: f, rows, dim })],
        ["gatherRows", 2 * size + rows, (tape, ops) => ops.gatherRows(tape, { table: f, id: u, out: o, rows, dim })],
        [
          "gatherRows of f16",
          1.5 * size + rows,
          (tape, ops) => ops.gatherRows(tape, { table: half, id: u, out: o, rows, dim })
        ],
        [
          "rope",
          2 * rows * 8 * 4 + rows * 4 + 2 * rows,
          (tape, ops) =>
            ops.rope(tape, {
              ...{ rows, heads: 4, kvHeads: 2, headDim: 4, qkv: f, position: u, kvRow: u, table: f },
              ...{ q: o, k: p, v: q }
            })
        ],
        ["columnSum", size + dim, (tape, ops) => ops.columnSum(tape, { x: f, out: o, rows, cols: dim })],
        [
          "adamw",
          7 * 50 + 3,
          (tape, ops) =>
            ops.adamw(tape, {
              ...{ w: o, g: f, m: p, v: q, clip: f, n: 50, step: 1, lr: 1, beta1: 0.9, beta2: 0.9, eps: 1 },
              weightDecay: 0
            })
        ],
        ["copy", 2 * 64, (tape, ops) => ops.probeCopy(tape, { from: f, to: o, n: 64 })]
      ]
      for (const info of kinds(gpu.info)) {
        for (const [name, elements, record] of cases) {
          const cost = total(dispatches(info, record))
          assert.strictEqual(cost.bytes, 4 * elements, name)
          assert.isFalse(cost.estimated, name)
        }
        const sampled = total(
          dispatches(info, (tape, ops) =>
            ops.sample(tape, { logits: o, settings: u, position: u, out: w, rows, vocab: 64, stride: 64 })
          )
        )
        assert.isAtLeast(sampled.bytes, 4 * 2 * rows * 64)
      }
      const matrix = total(
        dispatches(gpu.info, (tape, ops) => ops.probeMatrix(tape, { tiles: w, out: o, rounds: 10, groups: 2 }))
      )
      assert.strictEqual(matrix.flops, 10 * 2 * 4 * 8 * 2 * 16 ** 3)
    })
  )

  it.effect("what has no formula counts its bound buffers and says so", () =>
    Effect.gen(function* () {
      const gpu = yield* Gpu
      const f = yield* gpu.alloc("in", "f32", 8)
      const u = yield* gpu.alloc("index", "u32", 4)
      const [a, r] = [yield* gpu.alloc("advantage", "f32", 8), yield* gpu.alloc("returns", "f32", 8)]
      const scan = dispatches(gpu.info, (tape, ops) =>
        ops.gae(tape, {
          ...{ reward: f, value: f, first: u, bootstrap: f, advantage: a, returns: r },
          ...{ sequences: 2, gamma: 1, lambda: 1 }
        })
      )
      assert.deepStrictEqual(total(scan), { flops: 0, bytes: 4 * (3 * 8 + 4 + 2 * 2 * 8), estimated: true })
    })
  )
})

describe("shapes", () => {
  it("only products have one", () => {
    const swiglu: Dispatch = {
      kernel: "swiglu_forward",
      constants: {},
      tensors: [],
      immediates: new Uint32Array(4),
      grid: [1, 1, 1]
    }
    assert.strictEqual(shapeOf(swiglu), "")
  })
})
