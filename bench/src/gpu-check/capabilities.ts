/** What the device says of itself, and the latencies that decide how work must be cut: dispatch, submit, read. */
import { Gpu, makeOps } from "@srcode/gpu"
import { Effect, Stream } from "effect"
import { ChildProcess, ChildProcessSpawner } from "effect/process"
import { environment } from "../environment.ts"
import { time } from "../measure.ts"
import { hasMatrixUnits, measureCeilings } from "../profile/ceilings.ts"
import { guarded, Report } from "./Report.ts"

/** The whole standard output of a program, whatever its exit code. */
const outputOf = (program: string, args: ReadonlyArray<string>) =>
  Effect.gen(function* () {
    const spawner = yield* ChildProcessSpawner.ChildProcessSpawner
    const handle = yield* spawner.spawn(ChildProcess.make(program, [...args], { stderr: "ignore", extendEnv: true }))
    return yield* handle.stdout.pipe(Stream.decodeText, Stream.mkString)
  }).pipe(Effect.scoped)

const doctor = new URL("../../../apps/cli/src/main.ts", import.meta.url).pathname

/** Seconds of one of `count` small dispatches in one submit; each waits for the one before where they share a buffer. */
const dispatchSeconds = Effect.fnUntraced(function* (count: number, dependent: boolean, rounds: number) {
  const gpu = yield* Gpu
  const ops = makeOps(gpu.info)
  const x = yield* gpu.alloc("x", "f32", 64)
  const outs = yield* Effect.forEach(Array.from({ length: dependent ? 1 : 16 }), (_, i) =>
    gpu.alloc(`out${i}`, "f32", 64)
  )
  const timing = yield* time(
    rounds,
    Effect.andThen(
      gpu.submit("latency", (tape) => {
        for (let i = 0; i < count; i++) {
          const out = outs[i % outs.length]
          if (out !== undefined) ops.columnSum(tape, { x, out, rows: 1, cols: 64, accumulate: true })
        }
      }),
      gpu.idle
    )
  )
  return timing.min / count
}, Effect.scoped)

export const capabilities = Effect.gen(function* () {
  const gpu = yield* Gpu
  const report = yield* Report
  yield* report.set("environment", yield* environment)
  yield* report.set("adapter", gpu.info)
  yield* report.set("matrixUnits", hasMatrixUnits(gpu.info))
  yield* guarded(
    "doctor",
    Effect.flatMap(outputOf(process.execPath, [doctor, "doctor", "--json"]), (text) =>
      report.set("doctor", JSON.parse(text))
    )
  )
  if (report.size === "full") {
    // Clocks and power limits, where the vendor's tool is there to tell them.
    const query = "name,driver_version,memory.total,clocks.sm,clocks.max.sm,clocks.mem,power.limit,temperature.gpu"
    yield* outputOf("nvidia-smi", [`--query-gpu=${query}`, "--format=csv"]).pipe(
      Effect.flatMap((text) => report.set("vendorTool", text.trim().split("\n"))),
      Effect.catch(() => report.set("vendorTool", null))
    )
  }
  const [count, rounds] = report.size === "full" ? [1000, 20] : [50, 2]
  yield* guarded(
    "latencies",
    Effect.gen(function* () {
      const small = yield* gpu.alloc("small", "f32", 4)
      const read = yield* time(rounds, gpu.read(small))
      yield* report.set("latencies", {
        readSeconds: read.median,
        dependentDispatchSeconds: yield* dispatchSeconds(count, true, rounds),
        independentDispatchSeconds: yield* dispatchSeconds(count, false, rounds),
        submitSeconds: yield* dispatchSeconds(1, true, rounds)
      })
    }).pipe(Effect.scoped)
  )
  yield* guarded(
    "ceilings",
    Effect.flatMap(measureCeilings(), (ceilings) => report.set("ceilings", ceilings))
  )
})
