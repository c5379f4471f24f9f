/** The matrix-unit attention kernels through the compiler, with every tile that a device can get. Nothing is computed. */
import { assert, layer } from "@effect/vitest"
import { Effect } from "effect"
import { type AdapterInfo, attentionVariants, Gpu, GpuDawn, makeAttention } from "../src/index.ts"
import { blank } from "./support.ts"

const asCard = (info: AdapterInfo, memory: number): AdapterInfo => ({
  ...info,
  software: false,
  subgroupSize: [32, 32],
  subgroupMatrixConfigs: [{ componentType: "f16", resultComponentType: "f32", M: 16, N: 16, K: 16 }],
  limits: { ...info.limits, maxComputeWorkgroupStorageSize: memory }
})

layer(GpuDawn.layerNull)("attention on matrix units through the compiler", (it) => {
  for (const memory of [16384, 49152]) {
    for (const headDim of [32, 64, 96, 128]) {
      it.effect(`head_dim ${headDim} in ${memory} bytes`, () =>
        Effect.gen(function* () {
          const gpu = yield* Gpu
          const info = asCard(gpu.info, memory)
          const shape = { rows: 70, heads: 6, kvHeads: 2, headDim }
          assert.strictEqual(attentionVariants(info, shape)[0], "matrix")
          const ops = makeAttention(info, "matrix")
          const f = yield* gpu.alloc("in", "f32", 65536)
          const u = yield* gpu.alloc("index", "u32", 70)
          const [o, stat, dk, dv] = [
            yield* blank("o", 65536),
            yield* blank("stat", 840),
            yield* blank("dk", 65536),
            yield* blank("dv", 65536)
          ]
          const x = { ...shape, q: f, k: f, v: f, kvStart: u, kvEnd: u, qEnd: u, stat }
          for (const side of ["forward", "backward"] as const) {
            const record = gpu.submit("test", (tape) => {
              if (side === "forward") ops.attention(tape, { ...x, o, packed: true })
              else ops.attentionBackward(tape, { ...x, o: f, dO: f, dq: o, dk, dv })
              assert.isTrue(
                tape.entries.every((e) => e._tag === "Dispatch" && /_matrix|_delta/.test(e.dispatch.kernel))
              )
            })
            // The null device's workgroups hold 16 KiB. Texts are checked before that limit is, so nothing else may be wrong.
            const result = yield* record.pipe(Effect.result)
            if (memory === 16384) assert.strictEqual(result._tag, "Success", JSON.stringify(result))
            if (result._tag === "Failure") {
              const { reason } = result.failure
              const detail = reason._tag === "ShaderInvalid" ? reason.detail : JSON.stringify(reason)
              assert.include(detail, "total use of workgroup storage")
              assert.isAtMost(Number(/\((\d+) bytes\)/.exec(detail)?.[1]), memory)
            }
          }
        })
      )
    }
  }

  it.effect("without matrix units, with other subgroups or other heads the next rung is taken", () =>
    Effect.gen(function* () {
      const gpu = yield* Gpu
      const info = asCard(gpu.info, 49152)
      const first = (headDim: number, change: Partial<AdapterInfo>) =>
        attentionVariants({ ...info, ...change }, { rows: 9, heads: 2, kvHeads: 1, headDim })[0]
      assert.strictEqual(first(64, {}), "matrix")
      assert.strictEqual(first(80, {}), "flash")
      assert.strictEqual(first(256, {}), "flash")
      assert.strictEqual(first(64, { subgroupMatrixConfigs: [] }), "flash")
      assert.strictEqual(first(64, { subgroupSize: [8, 16] }), "flash")
      assert.strictEqual(first(64, { features: info.features.filter((f) => f !== "shader-f16") }), "flash")
      assert.strictEqual(first(64, { limits: { ...info.limits, maxComputeWorkgroupStorageSize: 8192 } }), "workgroup")
    })
  )
})
