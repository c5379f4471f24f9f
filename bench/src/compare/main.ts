/**
 * `bench/compare/run`: this engine and PyTorch at the same work on the same device, one after the other in processes of
 * their own, and the ratios. Where Python, torch or a CUDA device is missing it says so, and ours is measured all the same.
 */
import { parseArgs } from "node:util"
import { NodeRuntime, NodeServices } from "@effect/platform-node"
import { Calibration, deviceChoices, Gpu, GpuDawn } from "@srcode/gpu"
import type { ModelConfig } from "@srcode/model"
import { Console, Effect, FileSystem, Layer, Path, Stream } from "effect"
import { ChildProcess, ChildProcessSpawner } from "effect/process"
import { deviceSlug, environment } from "../environment.ts"
import { writeAtomic } from "../gpu-check/Report.ts"
import { presetConfig } from "../profile/run.ts"
import { type Plan, type Row, runOurs } from "./ours.ts"
import { decodeSide, ratiosOf, renderRatios } from "./report.ts"

const pieces = ["gemm", "logprob", "prefill", "generate", "sft"]
const text = { type: "string" } as const
const { values } = parseArgs({
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
const device = deviceChoices.find((d) => d === values.device) ?? "auto"
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
  rounds: whole(values.rounds)
}

/** The configuration by the names of a Hugging Face config.json, as the baseline reads it. */
const huggingFace = (c: ModelConfig) => ({
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
  }).pipe(Effect.scoped, Effect.provide(Calibration.layer.pipe(Layer.provide(GpuDawn.layerWith({ device })))))

/** Runs a side to its end; the last line it said on stderr where it failed. */
const runSide = Effect.fnUntraced(function* (program: string, args: ReadonlyArray<string>) {
  const spawner = yield* ChildProcessSpawner.ChildProcessSpawner
  return yield* Effect.gen(function* () {
    const handle = yield* spawner.spawn(
      ChildProcess.make(program, [...args], { stdout: "inherit", extendEnv: true, env: { PYTHONUNBUFFERED: "1" } })
    )
    const errors = yield* handle.stderr.pipe(Stream.decodeText, Stream.mkString)
    const code = yield* handle.exitCode
    return code === 0 ? undefined : (errors.trim().split("\n").at(-1) ?? "") || `it ended with code ${code}`
  }).pipe(
    Effect.scoped,
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
  const folder = yield* fs.makeTempDirectoryScoped({ prefix: "srcode-compare-" })
  const [torchFile, oursFile] = [path.join(folder, "torch.json"), path.join(folder, "ours.json")]
  const { sizes } = plan
  const shared = ["--batch", sizes.batch, "--sequence", sizes.sequence, "--prompt", sizes.prompt, "--new", sizes.fresh]
  const more = ["--prefill", sizes.prefill, "--gen-batch", sizes.genBatch.join(","), "--rank", sizes.rank]
  const common = [...shared, ...more, "--rounds", plan.rounds, "--what", plan.what.join(",")].map(String)
  const baseline = path.join(import.meta.dirname, "..", "..", "compare", "torch_baseline.py")
  yield* Console.log(`PyTorch, ${values.preset}:`)
  const problem = yield* runSide(values.python, [
    ...[baseline, "--config", JSON.stringify(huggingFace(config)), "--device", values["torch-device"]],
    ...[...common, "--out", torchFile],
    ...(values.checkpointing ? ["--checkpointing"] : []),
    ...(values.compile ? ["--compile"] : [])
  ])
  if (problem !== undefined) yield* Console.log(`PyTorch is not measured any further: ${problem}`)
  yield* Console.log(`srcode, ${values.preset}:`)
  const own = ["--preset", values.preset, "--device", device, "--ours", oursFile]
  const layers = values.layers === undefined ? [] : ["--layers", values.layers]
  const kept = values.checkpointing ? ["--checkpointing"] : []
  const ourProblem = yield* runSide(process.execPath, [process.argv[1] ?? "", ...own, ...layers, ...kept, ...common])
  if (ourProblem !== undefined) yield* Console.log(`srcode is not measured any further: ${ourProblem}`)
  const [torch, ours] = [yield* sideOf(torchFile), yield* sideOf(oursFile)]
  const ratios = ratiosOf(ours?.rows ?? [], torch?.rows ?? [])
  for (const line of renderRatios(ratios)) yield* Console.log(line)
  const slug = yield* Gpu.use((gpu) => Effect.succeed(deviceSlug(gpu.info))).pipe(
    Effect.provide(GpuDawn.layerWith({ device })),
    Effect.catch(() => Effect.succeed("none"))
  )
  const results = path.join(import.meta.dirname, "..", "..", "results")
  const out = values.out ?? path.join(results, `compare-${values.preset}-${slug}.json`)
  yield* fs.makeDirectory(path.dirname(out), { recursive: true })
  yield* writeAtomic(out, {
    model: { preset: values.preset, layers: config.numLayers },
    sizes,
    rounds: plan.rounds,
    ratios,
    ours: ours ?? { problem: ourProblem },
    torch: torch ?? { problem }
  })
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
