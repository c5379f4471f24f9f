/**
 * `npm run bench [-- peers] [--out FILE] [--device NAME] [--rounds N]`: prints a table and writes one JSON file with the
 * device, the versions and all figures. See bench/README.md. Benchmarks are never tests: these numbers depend on the machine
 * and what else it does.
 */
import { readFileSync } from "node:fs"
import { cpus } from "node:os"
import { NodeRuntime, NodeServices } from "@effect/platform-node"
import { Calibration, deviceChoices, Gpu, GpuDawn } from "@srcode/gpu"
import { dtypeChoices, quantizations } from "@srcode/model"
import { Clock, Console, DateTime, Effect, FileSystem, Layer, Path } from "effect"
import { argumentsOf, chosen } from "./arguments.ts"
import { measureCheckpoint } from "./checkpoint/checkpoint.ts"
import { measureVariant } from "./checkpoint/variant.ts"
import { engine } from "./engine.ts"
import { ladder } from "./ladder.ts"
import { comparePeers, peerNames } from "./peers/report.ts"

const usage = `usage: npm run bench [-- engine|ladder|peers|checkpoint] [--out FILE] [--device ${deviceChoices.join("|")}] [--rounds N]
  peers:      [--peers ${peerNames.join(",")}] [--only matmul,layer,generate]
  checkpoint: [--model DIR]`
const { values, positionals } = argumentsOf(usage, {
  allowPositionals: true,
  options: {
    out: { type: "string" },
    device: { type: "string", default: "auto" },
    rounds: { type: "string", default: "5" },
    peers: { type: "string", default: peerNames.join(",") },
    only: { type: "string", default: "" },
    model: { type: "string" },
    dtype: { type: "string" },
    quantize: { type: "string" }
  }
})
const device = chosen("device", values.device, deviceChoices)
const rounds = Math.max(1, Number.parseInt(values.rounds, 10) || 5)
const list = (text: string): ReadonlyArray<string> => text.split(",").filter((each) => each !== "")
const version = (name: string): string =>
  JSON.parse(readFileSync(new URL(`../../node_modules/${name}/package.json`, import.meta.url), "utf8")).version

/** What is measured, and the word it adds to the file's name. */
const subjects = {
  engine: { suffix: "", run: engine(rounds) },
  ladder: { suffix: "ladder-", run: ladder(rounds) },
  peers: {
    suffix: "peers-",
    run: comparePeers({
      rounds,
      peers: list(values.peers),
      only: (["matmul", "layer", "generate"] as const).filter((kind) => list(values.only).includes(kind))
    })
  },
  checkpoint: { suffix: "checkpoint-", run: measureCheckpoint({ model: values.model, device, rounds }) },
  // One precision of a checkpoint, for the process that `checkpoint` starts.
  variant: {
    suffix: "variant-",
    run: measureVariant({
      model: values.model ?? ".",
      dtype: dtypeChoices.find((d) => d === values.dtype) ?? "auto",
      quantize: quantizations.find((q) => q === values.quantize) ?? "none",
      rounds
    })
  }
}
const subject = Object.entries(subjects).find(([name]) => name === (positionals[0] ?? "engine"))?.[1]

const program = Effect.gen(function* () {
  if (subject === undefined) {
    yield* Console.error(`there is no benchmark "${positionals[0]}"; choose engine, ladder, peers or checkpoint`)
    return 1
  }
  const gpu = yield* Gpu
  const fs = yield* FileSystem.FileSystem
  const path = yield* Path.Path
  yield* Console.log(`device: ${gpu.info.name} (${gpu.info.backend}${gpu.info.software ? ", software" : ""})`)
  const figures = yield* subject.run
  const { peak } = yield* gpu.memory
  yield* Console.log(`peak device memory: ${(peak / 2 ** 20).toFixed(1)} MiB`)
  const result = {
    measuredAt: DateTime.formatIso(DateTime.makeUnsafe(yield* Clock.currentTimeMillis)),
    device: {
      name: gpu.info.name,
      vendor: gpu.info.vendor,
      driver: gpu.info.driver,
      backend: gpu.info.backend,
      software: gpu.info.software,
      subgroupSize: gpu.info.subgroupSize,
      features: gpu.info.features
    },
    host: { cpu: cpus()[0]?.model ?? "unknown", cores: cpus().length, platform: `${process.platform}-${process.arch}` },
    versions: { node: process.versions.node, webgpu: version("webgpu"), effect: version("effect") },
    rounds,
    ...figures,
    peakBytes: peak
  }
  const name = gpu.info.name
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, "-")
    .replace(/^-|-$/g, "")
  const out = values.out ?? path.join(import.meta.dirname, "..", "results", `${subject.suffix}${name}.json`)
  yield* fs.makeDirectory(path.dirname(out), { recursive: true })
  yield* fs.writeFileString(out, `${JSON.stringify(result, null, 2)}\n`)
  yield* Console.log(`written to ${out}`)
  return 0
})

NodeRuntime.runMain(
  program.pipe(
    Effect.scoped,
    Effect.provide(
      Calibration.layer.pipe(Layer.provide(GpuDawn.layerWith({ device })), Layer.provideMerge(NodeServices.layer))
    ),
    Effect.tap((code) => Effect.sync(() => void (process.exitCode = code)))
  )
)
