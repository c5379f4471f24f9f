/**
 * GFLOP/s of the rungs of the matmul ladder that this device can run, for many rows and for one: the figures of
 * kernels/matmul/README.md. bench/gpu-check times them at the shapes of a 7B model's layer.
 */
import {
  allocMatrix,
  Gpu,
  type MatmulVariant,
  makeOps,
  matmulVariants,
  onlyVariant,
  packRows,
  type Storage,
  unusable,
  writeRows
} from "@srcode/gpu"
import { Console, Effect } from "effect"
import { recorded, rungsOf } from "./gpu-check/verify/harness.ts"
import { time } from "./measure.ts"
import { quickUniforms } from "./profile/randomModel.ts"

/** Drivers that compute on the processor take seconds to compile a rung: there only what tells the rungs apart. */
const storagesOf = (software: boolean): ReadonlyArray<Storage> =>
  software ? ["f32", "f16"] : ["f32", "f16", "f16_tiles", "int8", "int4"]

/** Seconds after which no further round of a rung is begun. */
const patience = 1

/** Rows; output and input features are those of a small model's layer. */
const rows = [512, 1] as const
const side = 512

export const ladder = Effect.fn("bench.ladder")(function* (rounds: number) {
  const gpu = yield* Gpu
  const next = quickUniforms(7)
  const values = Float32Array.from({ length: side * side }, () => next() - 0.5)
  const a = yield* gpu.alloc("a", "f32", side * side)
  yield* gpu.write(a, values)
  const out = yield* gpu.alloc("out", "f32", side * side)
  const results: Array<{ variant: MatmulVariant; storage: Storage; m: number; gflops: number }> = []
  for (const storage of storagesOf(gpu.info.software)) {
    const b = yield* allocMatrix("b", storage, side, side)
    yield* writeRows(b, 0, side, packRows(storage, values, side, side))
    for (const variant of matmulVariants) {
      if (unusable(gpu.info, variant) !== undefined) continue
      const ops = makeOps(gpu.info, onlyVariant(variant))
      for (const m of rows) {
        const x = { a, b, out, m, n: side, k: side }
        const { dispatches } = yield* recorded((tape) => ops.matmulNT(tape, x), ops)
        // What does not fit a rung falls back to another.
        if (!rungsOf(dispatches).includes(variant)) continue
        const repeats = m === 1 ? 20 : 1
        const timing = yield* time(
          rounds,
          Effect.andThen(
            gpu.submit("bench", (tape) => {
              for (let i = 0; i < repeats; i++) ops.matmulNT(tape, x)
            }),
            gpu.idle
          ),
          patience
        )
        const gflops = Number(((2 * m * side * side * repeats) / timing.median / 1e9).toPrecision(3))
        results.push({ variant, storage, m, gflops })
        yield* Console.log(`${variant} ${storage}, ${m} rows: ${gflops} GFLOP/s`)
      }
    }
  }
  return { ladder: results }
}, Effect.scoped)
