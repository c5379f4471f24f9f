/** What this device can do at most, measured: a copy, f32 arithmetic without memory, and the matrix units without memory. */
import {
  type AdapterInfo,
  type Ceilings,
  costOf,
  Gpu,
  makeOps,
  probeElements,
  type Tape,
  Tape as TapeOf,
  unusable
} from "@srcode/gpu"
import { Effect } from "effect"
import { time } from "../measure.ts"

/** How much work each probe does: some milliseconds, on hardware and on drivers that compute on the processor. */
const sizes = {
  hardware: { copy: 1 << 26, groups: 4096, rounds: 4096, matrixGroups: 2048, matrixRounds: 2048 },
  software: { copy: 1 << 22, groups: 64, rounds: 256, matrixGroups: 8, matrixRounds: 64 }
} as const

/** Whether the device multiplies tiles of 16 x 16 halves with f32 sums. */
export const hasMatrixUnits = (info: AdapterInfo): boolean => unusable(info, "matrix16") === undefined

/** Seconds of the fastest of `rounds` runs of one dispatch: from timestamps, else by the clock. */
const fastest = Effect.fnUntraced(function* (rounds: number, record: (tape: Tape) => void) {
  const gpu = yield* Gpu
  const tape = new TapeOf()
  record(tape)
  const [entry] = tape.entries
  const cost = entry?._tag === "Dispatch" ? costOf(entry.dispatch) : { flops: 0, bytes: 0 }
  const stamped: Array<number> = []
  const wall = yield* time(
    rounds,
    Effect.gen(function* () {
      const times = yield* gpu.profile("probe", record)
      const sum = times.reduce((total, { nanoseconds }) => total + nanoseconds, 0)
      if (sum > 0) stamped.push(sum / 1e9)
    })
  )
  // The first of the stamped runs compiled.
  const seconds = stamped.length > 1 ? Math.min(...stamped.slice(1)) : wall.min
  return { flopsPerSecond: cost.flops / seconds, bytesPerSecond: cost.bytes / seconds }
})

export const measureCeilings = Effect.fn("bench.ceilings")(function* (rounds = 5) {
  const gpu = yield* Gpu
  const ops = makeOps(gpu.info)
  const size = sizes[gpu.info.software ? "software" : "hardware"]
  const copy = yield* Effect.scoped(
    Effect.gen(function* () {
      const from = yield* gpu.alloc("probe.from", "f32", size.copy)
      const to = yield* gpu.alloc("probe.to", "f32", size.copy)
      return yield* fastest(rounds, (tape) => ops.probeCopy(tape, { from, to, n: size.copy }))
    })
  )
  const fma = yield* Effect.scoped(
    Effect.gen(function* () {
      const { groups, rounds: turns } = size
      const out = yield* gpu.alloc("probe.out", "f32", groups * probeElements.fma)
      return yield* fastest(rounds, (tape) => ops.probeFma(tape, { out, rounds: turns, groups, a: 0.999, b: 0.001 }))
    })
  )
  const matrix = hasMatrixUnits(gpu.info)
    ? yield* Effect.scoped(
        Effect.gen(function* () {
          const { matrixGroups: groups, matrixRounds: turns } = size
          const tiles = yield* gpu.alloc("probe.tiles", "u32", 768)
          // Small halves of both signs: 0x2e66 is 0.1, 0xae66 is -0.1.
          yield* gpu.write(
            tiles,
            Uint32Array.from({ length: 768 }, (_, i) => (i % 3 === 0 ? 0xae662e66 : 0x2e66ae66))
          )
          const out = yield* gpu.alloc("probe.out", "f32", groups * probeElements.matrix)
          return yield* fastest(rounds, (tape) => ops.probeMatrix(tape, { tiles, out, rounds: turns, groups }))
        })
      ).pipe(Effect.orElseSucceed(() => undefined))
    : undefined
  const ceilings: Ceilings = {
    bytesPerSecond: copy.bytesPerSecond,
    flopsPerSecond: fma.flopsPerSecond,
    matrixFlopsPerSecond: matrix?.flopsPerSecond ?? 0
  }
  return ceilings
})
