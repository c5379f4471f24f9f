/**
 * What training takes on the device, by mode: the trainer's own allocations counted for real models' shapes.
 *
 *     node packages/trainer/scripts/memory.ts [--tokens 4096] [--rank 8] [--dtype f16|f32|int8|int4]
 *
 * Runs on the null backend; the device it counts for binds 2 GiB, as most cards do.
 */
import { parseArgs } from "node:util"
import { formatBytes, Gpu, GpuDawn, planMemory, type Storage } from "@srcode/gpu"
import { allocLora, allocRope, allocWeights, type Decoder, modelPresets } from "@srcode/model"
import { Console, Effect } from "effect"
import { makeLanguageModelTrainer } from "../src/index.ts"

const { values } = parseArgs({
  options: {
    tokens: { type: "string", default: "4096" },
    rank: { type: "string", default: "8" },
    dtype: { type: "string", default: "f16" }
  }
})
const [capacity, rank] = [Number(values.tokens), Number(values.rank)]
const storages: Readonly<Record<string, Storage>> = { f16: "f16", f32: "f32", int8: "int8", int4: "int4" }
const linear = storages[values.dtype] ?? "f16"

const program = Effect.gen(function* () {
  const gpu = yield* Gpu
  const limits = { ...gpu.info.limits, maxStorageBufferBindingSize: 2 ** 31 - 4, maxBufferSize: 2 ** 34 }
  const card = Gpu.of({ ...gpu, info: { ...gpu.info, limits } })
  for (const name of ["qwen2.5-coder-0.5b", "qwen2.5-coder-7b"] as const) {
    const config = modelPresets[name]
    if (config === undefined) continue
    for (const checkpointing of ["none", "selective", "layer"] as const) {
      const plan = yield* planMemory((section) =>
        Effect.gen(function* () {
          const precision = { linear, table: linear === "f32" ? "f32" : "f16" } as const
          const { weights } = yield* section("weights", allocWeights(config, precision))
          const decoder: Decoder = { config, weights, rope: yield* allocRope(config, capacity) }
          const lora = yield* section("adapter", allocLora(config, { rank, alpha: 16 }))
          const options = { stage: "memory", capacity, checkpointing, section }
          yield* makeLanguageModelTrainer(decoder, { lora }, options)
        })
      ).pipe(Effect.provideService(Gpu, card))
      const parts = plan.sections.map((part) => `${part.name} ${formatBytes(part.bytes)}`).join(", ")
      yield* Console.log(`${name}, ${capacity} tokens, ${checkpointing}: ${parts}; ${formatBytes(plan.total)}`)
    }
  }
})

await Effect.runPromise(program.pipe(Effect.provide(GpuDawn.layerNull)))
process.exit(0)
