import { assert, layer } from "@effect/vitest"
import { Effect } from "effect"
import {
  allocMatrix,
  Gpu,
  GpuDawn,
  type KernelName,
  kernelNames,
  type Matrix,
  makeOps,
  onlyVariant
} from "../src/index.ts"
import { asHardware, blank } from "./support.ts"

layer(GpuDawn.layerNull)("every kernel through the compiler, nothing computed", (it) => {
  it.effect("with the constants that stand in the files", () =>
    Effect.gen(function* () {
      const gpu = yield* Gpu
      assert.strictEqual(gpu.info.backend, "null")
      assert.isAbove(kernelNames.length, 30)
      yield* gpu.compile(kernelNames)
    })
  )

  it.effect(
    "with all constants that Ops chooses: subgroups of 4 and 8, hardware, all losses, with and without reference",
    () =>
      Effect.gen(function* () {
        const gpu = yield* Gpu
        const f = yield* gpu.alloc("in", "f32", 8192)
        const u = yield* gpu.alloc("index", "u32", 8192)
        const [o, p, q, s] = [
          yield* blank("o", 8192),
          yield* blank("p", 8192),
          yield* blank("q", 8192),
          yield* blank("s", 8192)
        ] as const
        const token = yield* gpu.alloc("token", "u32", 64)
        const matrices: Array<Matrix> = []
        for (const storage of ["f32", "f16", "f16_tiles", "int8", "int4"] as const)
          matrices.push(yield* allocMatrix(storage, storage, 24, 8))
        const seen = new Set<KernelName>()
        const software = (lanes: number) => ({ ...gpu.info, software: true, subgroupSize: [lanes, lanes] as const })
        for (const info of [
          software(0),
          software(4),
          software(8),
          asHardware(gpu.info),
          { ...gpu.info, software: false }
        ]) {
          const ops = info.software ? makeOps(info) : makeOps(info, onlyVariant("tiled"))
          yield* gpu.submit("test", (tape) => {
            for (const m of [1, 4, 8, 300]) {
              for (const n of [4, 12, 24]) {
                const x = { a: f, b: f, out: o, m, n, k: 8 }
                ops.matmulNT(tape, { ...x, bias: f, residual: f, extra: { a: f, b: f, k: 8 } })
                ops.matmulNN(tape, x)
                ops.matmulTN(tape, { ...x, accumulate: true })
              }
              ops.matmulNT(tape, { a: f, b: f, out: o, m, n: 3, k: 5 })
              for (const b of matrices) {
                ops.matmulNT(tape, { a: f, b, out: o, m, n: 24, k: 8 })
                ops.matmulNN(tape, { a: f, b, out: o, m, n: 8, k: 24 })
              }
            }
            for (const b of matrices.slice(0, 3)) {
              if (b.storage !== "f16_tiles") ops.gatherRows(tape, { table: b, id: u, out: o, rows: 2, dim: 8 })
              ops.addLowRank(tape, { w: b, b: f, a: p, width: 2, scale: 1 })
            }
            const norm = { x: f, w: f, rows: 4, dim: 8 }
            ops.rmsNorm(tape, { ...norm, y: o, rstd: p, eps: 1e-6 })
            ops.rmsNormBackward(tape, { ...norm, rstd: f, dy: f, dx: o, accumulate: false })
            ops.rmsNormBackwardWeight(tape, { ...norm, rstd: f, dy: f, dw: o, scratch: p })
            for (const headDim of [4, 24, 64, 128]) {
              const shape = { rows: 2, heads: 2, kvHeads: 1, headDim }
              for (const norm of [undefined, { weight: f, eps: 1e-6, qkv: f }]) {
                ops.rope(tape, { ...shape, qkv: f, position: u, kvRow: u, table: f, q: o, k: p, v: q, norm })
                ops.ropeBackward(tape, { ...shape, dq: f, dk: f, dv: f, position: u, table: f, dqkv: o, norm })
              }
              const attention = { ...shape, q: f, k: f, v: f, kvStart: u, kvEnd: u, qEnd: u }
              ops.attention(tape, { ...attention, o, stat: p })
              ops.attention(tape, { ...attention, o, stat: p, packed: true })
              const paged = { pageTable: u, maxPages: 4, slot: u, position: u }
              ops.attentionPaged(tape, { ...shape, ...paged, q: f, k: f, v: f, o })
              ops.attentionPaged(tape, { ...shape, ...paged, maxPages: 64, q: f, k: f, v: f, o, partial: s })
              ops.attentionBackward(tape, { ...attention, o: f, dO: f, stat: p, dq: o, dk: q, dv: s })
            }
            ops.swiglu(tape, { gu: f, y: o, rows: 2, dim: 4 })
            ops.swigluBackward(tape, { gu: o, dy: f, rows: 2, dim: 4 })
            ops.gatherRows(tape, { table: f, id: u, out: o, rows: 2, dim: 4 })
            ops.scatterRows(tape, { dy: f, start: u, order: u, dtable: o, rows: 2, dim: 4, accumulate: true })
            ops.columnSum(tape, { x: f, out: o, rows: 300, cols: 4, scratch: p })
            for (const ref of [{}, { refLogits: f, refOut: f }]) {
              const x = { ...ref, target: u, rows: 4, cols: 8, offset: 0, temperature: 1 }
              ops.logSoftmaxChunk(tape, { ...x, logits: f, state: o })
              ops.logSoftmaxFinish(tape, { ...ref, state: f, out: o, rows: 4 })
              ops.logSoftmaxBackward(tape, { ...x, logits: o, out: f, grad: f })
            }
            ops.sample(tape, { logits: o, settings: u, position: u, out: token, rows: 2, vocab: 8, stride: 4 })
            ops.gae(tape, {
              reward: f,
              value: f,
              first: u,
              bootstrap: f,
              advantage: o,
              returns: p,
              sequences: 2,
              gamma: 1,
              lambda: 1
            })
            ops.whiten(tape, { x: f, mask: u, y: o, n: 8 })
            for (const kind of ["clip", "dualClip", "cispo", "sapo"] as const) {
              const params = {
                kind,
                clipLow: 0.2,
                clipHigh: 0.2,
                valueClip: 0.2,
                valueCoef: 0.1,
                entropyCoef: 0,
                klCoef: 0,
                dualClip: 3,
                tauPositive: 1,
                tauNegative: 1
              }
              const token = { scored: f, old: f, advantage: f, value: f, returns: f }
              ops.ppoLoss(tape, { ...token, grad: o, dValue: p, metric: q, n: 4, params })
            }
            ops.valueHead(tape, { h: f, w: f, value: o, rows: 2, dim: 4 })
            ops.valueHeadBackward(tape, { dValue: f, h: f, w: f, dh: o, dw: p, rows: 2, dim: 4, accumulate: true })
            ops.loraMask(tape, { db: o, rows: 6, rank: 2, ends: [2, 4, 6] })
            ops.pairwiseLoss(tape, { score: f, dScore: o, metric: p, pairs: 2 })
            ops.gradNorm(tape, { g: f, partial: o, out: p, n: 600, clip: 1 })
            ops.adamw(tape, {
              w: o,
              g: f,
              m: p,
              v: q,
              clip: f,
              n: 8,
              step: 1,
              lr: 1e-3,
              beta1: 0.9,
              beta2: 0.99,
              eps: 1e-8,
              weightDecay: 0
            })
            ops.probeCopy(tape, { from: f, to: o, n: 8 })
            ops.probeFma(tape, { out: o, rounds: 1, groups: 1, a: 1, b: 0 })
            ops.probeMatrix(tape, { tiles: u, out: o, rounds: 1, groups: 1 })
            for (const entry of tape.entries) if (entry._tag === "Dispatch") seen.add(entry.dispatch.kernel)
          })
        }
        // So no kernel stands in the folder that nothing launches; ladder-compile.test.ts launches the rungs of matmul, flash-compile.test.ts
        // attention on matrix units.
        const ladder = /^(matmul_(register|half|matrix|direct|gemv|pack|split)|attention_\w+_matrix$)/
        assert.deepStrictEqual(
          [...seen].filter((name) => !ladder.test(name)).sort(),
          kernelNames.filter((name) => !ladder.test(name))
        )
      })
  )
})
