/** The pipeline as an Effect program: every judge and teacher swapped by a layer, nothing else changed. */
import { fileURLToPath } from "node:url"
import { NodeServices } from "@effect/platform-node"
import { assert, it } from "@effect/vitest"
import { Analyzer } from "@srcode/codeql"
import { CorpusJudge, Dataset } from "@srcode/dataset"
import { Gpu, GpuDawn } from "@srcode/gpu"
import { decodeRunConfig, run, type StagePlan } from "@srcode/pipeline"
import { RunStore } from "@srcode/store"
import { Teacher } from "@srcode/teacher"
import { Trainer } from "@srcode/trainer"
import { Effect, Layer } from "effect"
import { mockAnalyzer, mockJudge, mockTeacher, smallRun } from "./mocks.ts"

const layers = Layer.mergeAll(
  Trainer.layer.pipe(Layer.provideMerge(GpuDawn.layer)),
  Dataset.layer,
  RunStore.layerTest,
  Teacher.layerTest(mockTeacher),
  Analyzer.layerTest(mockAnalyzer),
  CorpusJudge.layerTest(mockJudge),
  NodeServices.layer
)

it.live("runs from PrimeVul rows to a report with a mock teacher and a mock analyzer", () =>
  Effect.gen(function* () {
    const data = fileURLToPath(new URL("./fixtures/primevul.jsonl", import.meta.url))
    const config = yield* decodeRunConfig({ ...smallRun, data })
    let planned = 0
    const onPlan = ({ plan }: StagePlan) => Effect.sync(() => void (planned = plan.total))
    const summary = yield* run({ name: "mock", config, versions: {}, gitCommit: null, notes: [], onPlan })
    const gpu = yield* Gpu
    // kernels of hardware may take scratch memory of their own
    if (gpu.info.software) assert.strictEqual((yield* gpu.memory).peak, planned, "the largest stage is as planned")
    const store = yield* RunStore
    assert.deepStrictEqual(
      summary.results.map((r) => r.arm),
      ["base", "sft", "rl-gated"]
    )
    assert.strictEqual(summary.results[0]?.rates["FS@1"]?.rate, 0.5)
    assert.include(yield* store.readText("report.html"), "RL with token rewards")
    assert.isTrue(yield* store.exists("adapter/adapter_model.safetensors"))
  }).pipe(Effect.provide(layers), Effect.scoped)
)
