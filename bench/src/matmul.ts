/** GFLOP/s of the three matmul layouts on square shapes and on those of the embedded model. */
import { Gpu, makeOps } from "@srcode/gpu"
import { Effect } from "effect"
import { time } from "./measure.ts"

const shapes: ReadonlyArray<readonly [m: number, n: number, k: number]> = [
  [256, 256, 256],
  [512, 512, 512],
  [1024, 1024, 1024],
  [2048, 512, 96],
  [2048, 96, 256],
  [32, 512, 96]
]

export const matmul = Effect.fn("bench.matmul")(function* (rounds: number) {
  const gpu = yield* Gpu
  const ops = makeOps(gpu.info)
  const results: Array<{ layout: string; m: number; n: number; k: number; gflops: number }> = []
  for (const [m, n, k] of shapes) {
    yield* Effect.scoped(
      Effect.gen(function* () {
        const a = yield* gpu.alloc("a", "f32", m * k)
        const b = yield* gpu.alloc("b", "f32", n * k)
        const out = yield* gpu.alloc("out", "f32", m * n)
        const repeats = Math.max(1, Math.round(2e8 / (m * n * k)))
        const args = { a, b, out, m, n, k }
        for (const [layout, launch] of [
          ["NT", ops.matmulNT],
          ["NN", ops.matmulNN],
          ["TN", ops.matmulTN]
        ] as const) {
          const timing = yield* time(
            rounds,
            Effect.andThen(
              gpu.submit("bench", (tape) => {
                for (let i = 0; i < repeats; i++) launch(tape, args)
              }),
              gpu.idle
            )
          )
          results.push({ layout, m, n, k, gflops: (2 * m * n * k * repeats) / timing.median / 1e9 })
        }
      })
    )
  }
  return results
})
