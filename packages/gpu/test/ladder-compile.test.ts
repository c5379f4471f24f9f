/** Every rung of the matmul ladder through the compiler with the constants it is launched with, matrix units too. Nothing is computed. */
import { assert, layer } from "@effect/vitest"
import { Effect } from "effect"
import {
  allocMatrix,
  Gpu,
  GpuDawn,
  type Matrix,
  makeOps,
  matmulVariants,
  onlyVariant,
  rungOf,
  type Tape,
  unusable
} from "../src/index.ts"
import { asCard, blank } from "./support.ts"

layer(GpuDawn.layerNull)("the matmul ladder through the compiler", (it) => {
  for (const variant of matmulVariants.filter((v) => v !== "subgroup")) {
    it.effect(variant, () =>
      Effect.gen(function* () {
        const gpu = yield* Gpu
        const info = asCard(gpu.info)
        assert.strictEqual(unusable(info, variant), undefined)
        const ops = makeOps(info, onlyVariant(variant))
        const f = yield* gpu.alloc("in", "f32", 65536)
        const o = yield* blank("out", 65536)
        const matrices: Array<Matrix> = []
        const { family, shared } = rungOf(variant)
        const all = ["f32", "f16", "f16_tiles", "int8", "int4"] as const
        for (const storage of family === "direct" ? (["f16_tiles"] as const) : all)
          matrices.push(yield* allocMatrix(storage, storage, 64, 256))
        const compiled: Array<string> = []
        const extra = { a: f, b: f, k: 8 }
        const records: Array<(tape: Tape) => void> = matrices.map((b) => (tape) => {
          ops.matmulNT(tape, { a: f, b, out: o, m: 8, n: 64, k: 256, bias: f, residual: f, extra, capacity: 8 })
        })
        if (family === "gemv") {
          const fused = { a: f, out: o, m: 8, n: 64, k: 256, extra, capacity: 8, norm: { weight: f, eps: 1e-6 } }
          for (const b of matrices) {
            records.push((tape) => ops.matmulNT(tape, { ...fused, b, bias: f }))
            records.push((tape) => ops.matmulNT(tape, { ...fused, b, gated: true }))
          }
        } else {
          for (const b of matrices)
            records.push((tape) => ops.matmulNN(tape, { a: f, b, out: o, m: 8, n: 256, k: 64, extra }))
          if (family !== "direct")
            records.push((tape) => ops.matmulTN(tape, { a: f, b: f, out: o, m: 16, n: 64, k: 512 }))
        }
        for (const record of records) {
          const before = compiled.length
          const outcome = yield* gpu
            .submit("test", (tape) => {
              record(tape)
              for (const entry of tape.entries) if (entry._tag === "Dispatch") compiled.push(entry.dispatch.kernel)
            })
            .pipe(Effect.result)
          // The null device's workgroups hold 16 KiB. Texts are checked before that limit is, so nothing else may be wrong with a larger tile.
          if (shared <= 16384 || !compiled.slice(before).some((k) => k.startsWith(`matmul_${family}`))) {
            assert.strictEqual(outcome._tag, "Success", outcome._tag === "Failure" ? outcome.failure.message : "")
            continue
          }
          if (outcome._tag === "Success") {
            // NN tiles pad less than NT ones, for which the table is.
            assert.isAtMost(shared, 1.25 * 16384)
            continue
          }
          const { reason } = outcome.failure
          const detail = reason._tag === "ShaderInvalid" ? reason.detail : String(reason)
          assert.include(detail, "total use of workgroup storage")
          assert.isAtMost(Number(/\((\d+) bytes\)/.exec(detail)?.[1]), shared)
        }
        const own = compiled.filter((k) => k.startsWith(`matmul_${family}`))
        assert.isAtLeast(new Set(own).size, matrices.length * (family === "gemv" ? 2 : 1))
        if (family === "matrix" || family === "half" || family === "direct") assert.include(compiled, "matmul_pack")
        if (family === "matrix" || family === "half") assert.include(compiled, "matmul_pack_columns")
        if (!["tiled", "gemv", "direct"].includes(family)) assert.include(compiled, "matmul_split_finish")
      }).pipe(Effect.scoped)
    )
  }
})
