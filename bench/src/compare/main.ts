/**
 * `bench/compare/run`: this engine and PyTorch at the same work on the same device, one after the other in processes of
 * their own, and the ratios. Where Python, torch or a CUDA device is missing it says so, and ours is measured all the same. Each side
 * has a part of the minutes that is its own, and what PyTorch leaves over rolls on to ours; the file is written after each.
 */
import { NodeRuntime, NodeServices } from "@effect/platform-node"
import { Calibration, deviceChoices, Gpu, GpuDawn } from "@srcode/gpu"
import type { ModelConfig } from "@srcode/model"
import { Clock, Console, Effect, FileSystem, Layer, Option, Path, Stream } from "effect"
import { ChildProcess, ChildProcessSpawner } from "effect/process"
import { argumentsOf, chosen } from "../arguments.ts"
import { deviceSlug, environment } from "../environment.ts"
import { writeAtomic } from "../gpu-check/Report.ts"
import { deadlinesOf, secondsFor } from "../gpu-check/schedule.ts"
import { presetConfig } from "../profile/run.ts"
import { type Plan, type Row, runOurs } from "./ours.ts"
import { decodeSide, ratiosOf, renderRatios } from "./report.ts"

const pieces = ["gemm", "logprob", "prefill", "generate", "sft", "transformers"]
const text = { type: "string" } as const
const usage = `usage: bench/compare/run [--preset NAME] [--layers N] [--what ${pieces.join(",")}] [--batch N] [--sequence N] [--prompt N]
  [--new N] [--prefill N] [--gen-batch 1,64] [--rank N] [--rounds N] [--minutes N] [--checkpointing] [--compile]
  [--python PROGRAM] [--torch-device cuda|cpu] [--device ${deviceChoices.join("|")}] [--out FILE]`
const { values } = argumentsOf(usage, {
  options: {
    preset: { ...text, default: "qwen2.5-coder-7b" },
    layers: text,
    what: { ...text, default: pieces.join(",") },
    batch: { ...text, default: "2" },
    sequence: { ...text, default: "2048" },
    prompt: { ...text, default: "256" },
    new: { ...text, default: "128" },
    prefill: { ...text, default: "2048" },
    "gen-batch": { ...text, default: "1,64" },
    rank: { ...text, default: "8" },
    rounds: { ...text, default: "5" },
    minutes: { ...text, default: "10" },
    /** Seconds in place of minutes, for a side or a caller. */
    seconds: text,
    checkpointing: { type: "boolean", default: false },
    compile: { type: "boolean", default: false },
    python: { ...text, default: "python3" },
    "torch-device": { ...text, default: "cuda" },
    device: { ...text, default: "auto" },
    out: text,
    /** For the process that measures ours. */
    ours: text
  }
})
const device = chosen("device", values.device, deviceChoices)
const whole = (value: string): number => Math.max(1, Math.floor(Number(value)) || 1)
const plan: Plan = {
  choice: {
    preset: values.preset,
    layers: values.layers === undefined ? undefined : whole(values.layers),
    dtype: "auto",
    quantize: "none"
  },
  sizes: {
    batch: whole(values.batch),
    sequence: whole(values.sequence),
    prompt: whole(values.prompt),
    fresh: Math.max(2, whole(values.new)),
    prefill: whole(values.prefill),
    rank: whole(values.rank),
    checkpointing: values.checkpointing ? "layer" : "none",
    genBatch: values["gen-batch"].split(",").map(whole)
  },
  what: pieces.filter((piece) => values.what.split(",").includes(piece)),
  rounds: whole(values.rounds),
  seconds: Math.max(1, Number(values.seconds ?? 60 * Number(values.minutes)) || 600)
}

/** The configuration by the names of a Hugging Face config.json, as the baseline reads it. */
const huggingFace = (c: ModelConfig) => ({
  model_type: c.modelType,
  hidden_size: c.hiddenSize,
  intermediate_size: c.intermediateSize,
  num_hidden_layers: c.numLayers,
  num_attention_heads: c.numHeads,
  num_key_value_heads: c.numKeyValueHeads,
  head_dim: c.headDim,
  vocab_size: c.vocabSize,
  rms_norm_eps: c.rmsNormEps,
  rope_theta: c.ropeTheta,
  // Llama 3's scaling only changes a table; its timings are those without.
  rope_scaling: c.ropeScaling?.kind === "linear" ? { rope_type: "linear", factor: c.ropeScaling.factor } : null,
  tie_word_embeddings: c.tieWordEmbeddings,
  attention_bias: c.attentionBias,
  qk_norm: c.qkNorm
})

/** Measures ours in this process and keeps its rows in `file`. */
const alone = (file: string) =>
  Effect.gen(function* () {
    const { info } = yield* Gpu
    const rows: Array<Row> = []
    const own = { ...(yield* environment), info: { name: info.name, driver: info.driver } }
    yield* writeAtomic(file, { ...own, rows })
    const fs = yield* FileSystem.FileSystem
    yield* runOurs(plan, (row) => {
      rows.push(row)
      return writeAtomic(file, { ...own, rows }).pipe(Effect.provideService(FileSystem.FileSystem, fs), Effect.orDie)
    })
    return 0
  }).pipe(
    Effect.scoped,
    Effect.provide(
      Calibration.layerWith({ seconds: Math.min(60, plan.seconds / 4) }).pipe(
        Layer.provide(GpuDawn.layerWith({ device }))
      )
    )
  )

/** Parts of the time, PyTorch's and ours. */
const parts = [4, 5]

/** Seconds that a side has to end by itself in before it is ended. */
const grace = 3

/** Runs a side within `seconds`; where it failed the last line it said on stderr. */
const runSide = Effect.fnUntraced(function* (program: string, args: ReadonlyArray<string>, seconds: number) {
  const spawner = yield* ChildProcessSpawner.ChildProcessSpawner
  const own = [...args, "--seconds", Math.max(1, seconds - grace).toFixed(1)]
  return yield* Effect.gen(function* () {
    const handle = yield* spawner.spawn(
      ChildProcess.make(program, own, {
        ...{ stdout: "inherit", extendEnv: true, env: { PYTHONUNBUFFERED: "1" } },
        ...{ killSignal: "SIGKILL", forceKillAfter: "2 seconds" }
      })
    )
    const errors = yield* handle.stderr.pipe(Stream.decodeText, Stream.mkString)
    const code = yield* handle.exitCode
    return code === 0 ? undefined : (errors.trim().split("\n").at(-1) ?? "") || `it ended with code ${code}`
  }).pipe(
    Effect.scoped,
    Effect.timeoutOption(`${Math.round(1000 * seconds)} millis`),
    Effect.map(Option.getOrElse(() => `it was ended after the ${seconds.toFixed(0)} seconds it had`)),
    Effect.catch((error) => Effect.succeed(`${program} cannot be started: ${error.message}`))
  )
})

const sideOf = Effect.fnUntraced(function* (file: string) {
  const fs = yield* FileSystem.FileSystem
  return yield* fs.readFileString(file).pipe(
    Effect.map(decodeSide),
    Effect.catch(() => Effect.succeed(undefined))
  )
})

const compare = Effect.gen(function* () {
  const fs = yield* FileSystem.FileSystem
  const path = yield* Path.Path
  const config = yield* presetConfig(values.preset, plan.choice.layers)
  const slug = yield* Gpu.use((gpu) => Effect.succeed(deviceSlug(gpu.info))).pipe(
    Effect.provide(GpuDawn.layerWith({ device })),
    Effect.catch(() => Effect.succeed("none"))
  )
  const results = path.join(import.meta.dirname, "..", "..", "results")
  const out = path.resolve(values.out ?? path.join(results, `compare-${values.preset}-${slug}.json`))
  yield* fs.makeDirectory(path.dirname(out), { recursive: true })
  // Beside the result while they grow: whatever ends this program, what was measured is there.
  const [torchFile, oursFile] = [`${out}.torch`, `${out}.ours`]
  for (const file of [torchFile, oursFile]) yield* fs.remove(file, { force: true })
  const start = yield* Clock.currentTimeMillis
  const deadlines = deadlinesOf(parts, plan.seconds)
  const left = (side: number) =>
    Effect.map(Clock.currentTimeMillis, (now) => secondsFor(deadlines, side, (now - start) / 1000))
  const write = Effect.fnUntraced(function* (torchProblem: string | undefined, ourProblem: string | undefined) {
    const [torch, ours] = [yield* sideOf(torchFile), yield* sideOf(oursFile)]
    const ratios = ratiosOf(ours?.rows ?? [], torch?.rows ?? [])
    yield* writeAtomic(out, {
      model: { preset: values.preset, layers: config.numLayers },
      ...{ sizes: plan.sizes, rounds: plan.rounds, ratios },
      ours: { ...ours, ...(ourProblem === undefined ? {} : { problem: ourProblem }) },
      torch: { ...torch, ...(torchProblem === undefined ? {} : { problem: torchProblem }) }
    })
    return ratios
  })
  const { sizes } = plan
  const shared = ["--batch", sizes.batch, "--sequence", sizes.sequence, "--prompt", sizes.prompt, "--new", sizes.fresh]
  const more = ["--prefill", sizes.prefill, "--gen-batch", sizes.genBatch.join(","), "--rank", sizes.rank]
  const common = [...shared, ...more, "--rounds", plan.rounds, "--what", plan.what.join(",")].map(String)
  const baseline = path.join(import.meta.dirname, "..", "..", "compare", "torch_baseline.py")
  yield* Console.log(`PyTorch, ${values.preset}:`)
  const python = [
    ...[baseline, "--config", JSON.stringify(huggingFace(config)), "--device", values["torch-device"]],
    ...[...common, "--out", torchFile],
    ...(values.checkpointing ? ["--checkpointing"] : []),
    ...(values.compile ? ["--compile"] : [])
  ]
  const problem = yield* runSide(values.python, python, yield* left(0))
  if (problem !== undefined) yield* Console.log(`PyTorch is not measured any further: ${problem}`)
  yield* write(problem, "it was not run to its end")
  yield* Console.log(`srcode, ${values.preset}:`)
  const own = ["--preset", values.preset, "--device", device, "--ours", oursFile]
  const layers = values.layers === undefined ? [] : ["--layers", values.layers]
  const kept = values.checkpointing ? ["--checkpointing"] : []
  const args = [process.argv[1] ?? "", ...own, ...layers, ...kept, ...common]
  const ourProblem = yield* runSide(process.execPath, args, yield* left(1))
  if (ourProblem !== undefined) yield* Console.log(`srcode is not measured any further: ${ourProblem}`)
  for (const line of renderRatios(yield* write(problem, ourProblem))) yield* Console.log(line)
  for (const file of [torchFile, oursFile]) yield* fs.remove(file, { force: true })
  yield* Console.log(`written to ${out}`)
  return ourProblem === undefined ? 0 : 1
}).pipe(Effect.scoped)

/** What cannot be mended here is one line and exit code 1. */
const told = <E extends { readonly message: string }, R>(work: Effect.Effect<number, E, R>) =>
  Effect.catch(work, (error) => Effect.as(Console.error(error.message), 1))

const program: Effect.Effect<number, never, NodeServices.NodeServices> =
  values.ours === undefined ? told(compare) : told(alone(values.ours))
NodeRuntime.runMain(
  program.pipe(
    Effect.provide(NodeServices.layer),
    Effect.tap((code) => Effect.sync(() => void (process.exitCode = code)))
  )
)
