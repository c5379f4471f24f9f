/** Our side of the comparison: the same pieces of work as bench/compare/torch_baseline.py, by the same names. */
import { allocMatrix, Gpu, makeOps } from "@srcode/gpu"
import type { Decoder, ModelConfig } from "@srcode/model"
import { Clock, Effect } from "effect"
import { time } from "../measure.ts"
import { type ModelChoice, openForBench } from "../profile/run.ts"
import { type Sizes, type WorkloadName, workloads } from "../profile/workloads.ts"

export interface Row {
  readonly what: string
  readonly name: string
  readonly seconds?: number
  readonly min?: number
  readonly max?: number
  readonly peak_bytes: number | null
  readonly tokens?: number
  readonly flops?: number
  readonly problem?: string
}

export interface Plan {
  readonly choice: ModelChoice
  readonly sizes: {
    readonly batch: number
    readonly sequence: number
    readonly prompt: number
    readonly fresh: number
    readonly prefill: number
    readonly rank: number
    readonly checkpointing: Sizes["checkpointing"]
    readonly genBatch: ReadonlyArray<number>
  }
  readonly what: ReadonlyArray<string>
  readonly rounds: number
  /** Seconds for all of it: a piece begins no further round when it has had a fifth, and none is begun when they are over. */
  readonly seconds: number
}

/** Output and input features of the products of one layer. */
export const layerShapes = (c: ModelConfig) => ({
  qkv: [(c.numHeads + 2 * c.numKeyValueHeads) * c.headDim, c.hiddenSize] as const,
  o: [c.hiddenSize, c.numHeads * c.headDim] as const,
  gate_up: [2 * c.intermediateSize, c.hiddenSize] as const,
  down: [c.hiddenSize, c.intermediateSize] as const
})

/** Products a submit; the wait at its end is shared by all. */
const repeat = 8

const product = Effect.fnUntraced(function* (m: number, out: number, inner: number, rounds: number, patience: number) {
  const gpu = yield* Gpu
  const ops = makeOps(gpu.info)
  const { features, matmul } = gpu.info
  const storage = features.includes("shader-f16") ? (matmul?.weights16 ?? "f16") : "f32"
  const b = yield* allocMatrix("b", storage, out, inner)
  const x = yield* gpu.alloc("x", "f32", m * Math.max(inner, out))
  // Ones in 16 or 32 bits are finite in either; what they are does not change the work.
  for (const { data } of b.parts) {
    if (data.element === "f32")
      yield* gpu.write({ ...data, element: "f32" as const }, new Float32Array(data.length).fill(0.01))
    else yield* gpu.write({ ...data, element: "u32" as const }, new Uint32Array(data.length).fill(0x2e66ae66))
  }
  yield* gpu.write(
    x,
    Float32Array.from({ length: x.length }, (_, i) => Math.sin(i))
  )
  const y = yield* gpu.alloc("y", "f32", x.length)
  const run = (layout: "NT" | "NN") =>
    Effect.andThen(
      gpu.submit("products", (tape) => {
        for (let i = 0; i < repeat; i++) {
          if (layout === "NT") ops.matmulNT(tape, { a: x, b, out: y, m, n: out, k: inner })
          else ops.matmulNN(tape, { a: x, b, out: y, m, n: inner, k: out })
        }
      }),
      gpu.idle
    )
  const { live } = yield* gpu.memory
  return { NT: yield* time(rounds, run("NT"), patience), NN: yield* time(rounds, run("NN"), patience), live }
}, Effect.scoped)

const problemOf = (error: unknown): string => (error instanceof Error ? error.message : String(error)).slice(0, 300)

/** All pieces in turn; each is handed over when it is done, and one that fails is a row too. */
export const runOurs = Effect.fn("compare.ours")(function* (plan: Plan, onRow: (row: Row) => Effect.Effect<void>) {
  const gpu = yield* Gpu
  const { rounds, sizes, what } = plan
  const end = (yield* Clock.currentTimeMillis) + 1000 * plan.seconds
  const longest = Math.max(sizes.sequence, sizes.prompt + sizes.fresh, sizes.prefill + 1)
  const { decoder } = yield* openForBench(plan.choice, longest + 1)
  const tokens = sizes.batch * sizes.sequence
  const weights = (yield* gpu.memory).live
  const patience = plan.seconds / 5
  /** Fails where no time is left. */
  const inTime = Effect.flatMap(Clock.currentTimeMillis, (now) =>
    now < end ? Effect.void : Effect.fail("no time was left for it")
  )
  const gemm = Effect.gen(function* () {
    for (const [name, [out, inner]] of Object.entries(layerShapes(decoder.config))) {
      const flops = 2 * tokens * out * inner
      const done = yield* Effect.result(Effect.andThen(inTime, product(tokens, out, inner, rounds, patience / 4)))
      for (const layout of ["NT", "NN"] as const) {
        const row = { what: "gemm", name: `${name} ${layout}`, flops }
        if (done._tag === "Failure") yield* onRow({ ...row, peak_bytes: null, problem: problemOf(done.failure) })
        else {
          const { max, median, min } = done.success[layout]
          yield* onRow({
            ...row,
            peak_bytes: done.success.live - weights,
            seconds: median / repeat,
            min: min / repeat,
            max: max / repeat
          })
        }
      }
    }
  })
  const piece = (
    kind: string,
    name: string,
    workload: WorkloadName,
    own: Partial<Sizes>,
    turns: number,
    counted?: number
  ) =>
    Effect.gen(function* () {
      const all: Sizes = { ...sizes, steps: sizes.fresh - 1, ...own }
      const done = yield* Effect.result(Effect.andThen(inTime, timed(decoder, workload, all, turns, patience)))
      const row = { what: kind, name }
      if (done._tag === "Failure") return yield* onRow({ ...row, peak_bytes: null, problem: problemOf(done.failure) })
      const { live, timing, tokens } = done.success
      yield* onRow({
        ...row,
        peak_bytes: live,
        tokens: counted ?? tokens,
        seconds: timing.median,
        min: timing.min,
        max: timing.max
      })
    })
  // In the order of what would be missed most.
  if (what.includes("sft")) yield* piece("sft", "LoRA step", "sft", {}, rounds)
  if (what.includes("generate")) {
    for (const batch of sizes.genBatch) {
      const turns = Math.max(1, Math.floor(rounds / 2))
      yield* piece("generate", `generate, batch ${batch}`, "decode", { batch }, turns, batch * sizes.fresh)
    }
  }
  if (what.includes("logprob")) yield* piece("logprob", "log-probabilities", "logprob", {}, rounds)
  if (what.includes("gemm")) yield* gemm
  if (what.includes("prefill"))
    yield* piece("prefill", "prefill", "prefill", { batch: 1, prompt: sizes.prefill }, rounds)
}, Effect.scoped)

/** The buffers of one piece live only while it is timed, and all of them all that while: what lives then is its peak. */
const timed = Effect.fnUntraced(function* (
  decoder: Decoder,
  workload: WorkloadName,
  sizes: Sizes,
  rounds: number,
  patience: number
) {
  const gpu = yield* Gpu
  const { run, tokens } = yield* workloads[workload](decoder, sizes)
  const timing = yield* time(rounds, run, patience)
  return { timing, tokens, live: (yield* gpu.memory).live }
}, Effect.scoped)
