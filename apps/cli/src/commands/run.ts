/** `srcode run`: the whole pipeline in one directory. A second call resumes, and skips what is done. */
import { fileURLToPath } from "node:url"
import { UserError } from "@srcode/domain"
import { describePlan, Gpu } from "@srcode/gpu"
import { type DtypeChoice, locateModel } from "@srcode/model"
import { decodeRunConfig, embeddedPpo, quickRun, type RunConfig, run as runPipeline } from "@srcode/pipeline"
import { RunStore, readJson } from "@srcode/store"
import { Console, Effect, Layer, Option, Schema, Stdio } from "effect"
import { Command, Flag } from "effect/cli"
import { ChildProcess, ChildProcessSpawner } from "effect/process"
import packageJson from "../../package.json" with { type: "json" }
import { oneLine } from "../errors.ts"
import { gpuLayerFromFlags, judgingLayer, progressLayer, recordingsFlag, teacherFlag, teacherLayer } from "../layers.ts"
import { dtypeFlag, modelFlag, tellPlan } from "../model.ts"
import { countFlag, fileFlag } from "../root.ts"

const config = fileFlag("config", "Settings of the run as JSON (default: the embedded demo)").pipe(Flag.optional)
const data = fileFlag("data", "PrimeVul JSONL to learn from (default: the embedded corpus)").pipe(Flag.optional)
const limit = countFlag("limit", "Rows of --data to take (default: all)").pipe(Flag.optional)
const out = fileFlag("out", "Run directory; a run that was cut off goes on there (required)", "DIR")
const preset = Flag.Literals("preset", ["demo", "full", "quick"]).pipe(
  Flag.withDescription(
    "Size of the stages that --config leaves open; demo is full, or quick where a software driver would take too long"
  ),
  Flag.withDefault("demo" as const)
)

/** Drivers that run four lanes at a time (SwiftShader) take several times as long as those with eight. */
const isSlow = (info: Gpu["Service"]["info"]): boolean => info.software && info.subgroupSize[1] <= 4

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value)

/** The settings of the file over those of the preset, key by key. */
const overlay = (base: unknown, over: unknown): unknown =>
  isObject(base) && isObject(over)
    ? { ...base, ...Object.fromEntries(Object.entries(over).map(([k, v]) => [k, k in base ? overlay(base[k], v) : v])) }
    : over

const fullRun = {
  sft: { steps: 50, lr: 2e-3, schedule: "linear", batchSize: 16, accumulation: 1 },
  rl: embeddedPpo
}

/** The commit this program is at, where it is run from a checkout that has git. */
const gitCommit = Effect.gen(function* () {
  const spawner = yield* ChildProcessSpawner.ChildProcessSpawner
  const root = fileURLToPath(new URL("../../../..", import.meta.url))
  return (yield* spawner.string(ChildProcess.make("git", ["-C", root, "rev-parse", "HEAD"]))).trim() || null
}).pipe(
  Effect.timeout("5 seconds"),
  Effect.orElseSucceed(() => null)
)

const readRunConfig = Effect.fn("readRunConfig")(function* (flags: {
  config: Option.Option<string>
  model: Option.Option<string>
  dtype: Option.Option<DtypeChoice>
  data: Option.Option<string>
  limit: Option.Option<number>
  quick: boolean
}) {
  const given = Option.isSome(flags.config) ? yield* readJson(flags.config.value, Schema.Json) : {}
  const file = Option.getOrElse(flags.config, () => "the preset")
  if (!isObject(given)) return yield* new UserError({ message: `${file}: the settings must be a JSON object` })
  const merged = overlay(overlay(flags.quick ? quickRun : fullRun, given), {
    ...(Option.isSome(flags.model) ? { model: flags.model.value } : {}),
    ...(Option.isSome(flags.dtype) ? { dtype: flags.dtype.value } : {}),
    ...(Option.isSome(flags.data) ? { data: flags.data.value } : {}),
    ...(Option.isSome(flags.limit) ? { limit: flags.limit.value } : {})
  })
  const settings = yield* decodeRunConfig(merged).pipe(
    Effect.mapError((error) => new UserError({ message: `${file}: ${oneLine(error.message, 600)}` }))
  )
  return { ...settings, model: yield* locateModel(settings.model) }
})

const notesOf = (quick: string | null, settings: RunConfig): ReadonlyArray<string> => [
  ...(quick === null ? [] : [`A smaller preset was chosen: ${quick}; --preset full runs everything.`]),
  ...(settings.data === null
    ? []
    : [
        "The benchmark is the embedded one; data/ rates are analyzer findings on generations for this run's own prompts."
      ])
]

/** Why the demo preset is run small here, or null when it is not. */
const whySmaller = (info: Gpu["Service"]["info"], preset: string, ownData: boolean): string | null => {
  if (preset !== "demo") return null
  if (isSlow(info)) return `${info.name} computes ${info.subgroupSize[1]} lanes at a time`
  return info.software && ownData ? "whole functions are long for a software driver" : null
}

export const run = Command.make(
  "run",
  {
    config,
    model: modelFlag.pipe(
      Flag.withDescription("Model folder or ORG/NAME (default: the embedded tiny-coder)"),
      Flag.optional
    ),
    dtype: dtypeFlag.pipe(Flag.optional),
    data,
    limit,
    out,
    preset,
    teacher: teacherFlag,
    recordings: recordingsFlag
  },
  Effect.fnUntraced(function* (flags) {
    const program = Effect.gen(function* () {
      const gpu = yield* Gpu
      const smaller = whySmaller(gpu.info, flags.preset, Option.isSome(flags.data))
      const settings = yield* readRunConfig({ ...flags, quick: flags.preset === "quick" || smaller !== null })
      const notes = notesOf(smaller, settings)
      yield* Console.log(`device: ${gpu.info.name}${gpu.info.software ? " (software)" : ""}`)
      for (const note of notes) yield* Console.log(note)
      const stdio = yield* Stdio.Stdio
      const summary = yield* runPipeline({
        name:
          flags.out
            .split("/")
            .filter((p) => p !== "")
            .at(-1) ?? "run",
        config: settings,
        versions: { srcode: packageJson.version, node: process.versions.node },
        gitCommit: yield* gitCommit,
        notes,
        onPlan: ({ checkpoint, plan, stage }) =>
          tellPlan(settings.model, checkpoint, `stage ${stage} takes most: ${describePlan(plan)}`).pipe(
            Effect.provideService(Stdio.Stdio, stdio)
          )
      })
      yield* Console.log(`\n${summary.table}`)
      if (summary.rewardModelAccuracy !== null) {
        yield* Console.log(
          `\nsequence reward: a reward model that ranks ${Math.round(100 * summary.rewardModelAccuracy)} % of held-out pairs rightly`
        )
      }
      yield* Console.log(`\nreport   ${summary.report}\nadapter  ${summary.adapter}`)
    })
    yield* program.pipe(
      Effect.provide(
        Layer.mergeAll(
          gpuLayerFromFlags,
          RunStore.layer(flags.out),
          teacherLayer(flags.teacher, flags.recordings),
          judgingLayer,
          progressLayer
        )
      ),
      Effect.scoped
    )
  })
).pipe(
  Command.withDescription(
    "Run the whole pipeline: data set, supervised tuning, reinforcement with token rewards, evaluation, report"
  ),
  Command.withExamples([
    { command: "npm run srcode -- run --out runs/demo", description: "The embedded demo" },
    {
      command: "npm run srcode -- run --data primevul_paired_dev.jsonl --limit 40 --out runs/primevul",
      description: "Real functions"
    },
    {
      command: "npm run srcode -- run --config experiment.json --out runs/experiment",
      description: "Settings of your own; the same command resumes"
    }
  ])
)
