/**
 * `npm run bench [-- --out FILE] [--device NAME] [--rounds N]`: prints a table and writes one JSON file with the device,
 * the versions and all figures. Benchmarks are never tests: these numbers depend on the machine and what else it does.
 */
import { readFileSync } from "node:fs"
import { cpus } from "node:os"
import { parseArgs } from "node:util"
import { NodeRuntime, NodeServices } from "@effect/platform-node"
import { deviceChoices, Gpu, GpuDawn } from "@srcode/gpu"
import { Clock, Console, DateTime, Effect, FileSystem, Layer, Path } from "effect"
import { matmul } from "./matmul.ts"
import { decode, ppo, sft } from "./tinyCoder.ts"

const { values } = parseArgs({
  options: {
    out: { type: "string" },
    device: { type: "string", default: "auto" },
    rounds: { type: "string", default: "5" }
  }
})
const device = deviceChoices.find((d) => d === values.device) ?? "auto"
const rounds = Math.max(1, Number.parseInt(values.rounds, 10) || 5)
const version = (name: string): string =>
  JSON.parse(readFileSync(new URL(`../../node_modules/${name}/package.json`, import.meta.url), "utf8")).version
const round = (x: number) => Number(x.toPrecision(4))

const program = Effect.gen(function* () {
  const gpu = yield* Gpu
  const fs = yield* FileSystem.FileSystem
  const path = yield* Path.Path
  yield* Console.log(`device: ${gpu.info.name} (${gpu.info.backend}${gpu.info.software ? ", software" : ""})`)
  const products = yield* matmul(rounds)
  for (const r of products)
    yield* Console.log(`matmul ${r.layout} ${r.m} x ${r.n} x ${r.k}: ${r.gflops.toFixed(1)} GFLOP/s`)
  const s = yield* sft(rounds)
  yield* Console.log(`sft: ${s.tokensPerSecond.toFixed(0)} tokens/s`)
  const d = yield* decode(rounds)
  yield* Console.log(
    `decode, 32 sequences: ${d.tokensPerSecond.toFixed(0)} tokens/s, ${d.dispatchesPerStep} dispatches a step`
  )
  const p = yield* ppo(rounds)
  yield* Console.log(`ppo update, ${p.epochs} epochs: ${p.tokensPerSecond.toFixed(0)} tokens/s`)
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
    matmul: products.map((r) => ({ ...r, gflops: round(r.gflops) })),
    tinyCoder: { sft: s, decode: d, ppo: p },
    peakBytes: peak
  }
  const name = gpu.info.name
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, "-")
    .replace(/^-|-$/g, "")
  const out = values.out ?? path.join(import.meta.dirname, "..", "results", `${name}.json`)
  yield* fs.makeDirectory(path.dirname(out), { recursive: true })
  yield* fs.writeFileString(out, `${JSON.stringify(result, null, 2)}\n`)
  yield* Console.log(`written to ${out}`)
})

NodeRuntime.runMain(
  program.pipe(Effect.scoped, Effect.provide(Layer.mergeAll(GpuDawn.layerWith({ device }), NodeServices.layer)))
)
