/** `srcode dataset build`: Vul2Safe and PrimeVul+ from PrimeVul rows, or the tasks of the embedded corpus. */
import { CurriculumOrder } from "@srcode/domain"
import { buildWorld, decodeRunConfig } from "@srcode/pipeline"
import { hashFile, hashJson, RunStore } from "@srcode/store"
import { Teacher } from "@srcode/teacher"
import { Console, Effect, Layer, Option } from "effect"
import { Command, Flag } from "effect/cli"
import { judgingLayer, progressLayer, recordingsFlag, teacherFlag, teacherLayer } from "../../layers.ts"
import { countFlag, fileFlag, seedFlag } from "../../root.ts"

export const build = Command.make(
  "build",
  {
    data: fileFlag("data", "PrimeVul JSONL, paired or unpaired (default: the embedded corpus)").pipe(Flag.optional),
    limit: countFlag("limit", "Rows of --data to take (default: all)").pipe(Flag.optional),
    order: Flag.Literals("order", CurriculumOrder.literals).pipe(
      Flag.withDescription("Order of the curriculum (default progressive)"),
      Flag.withDefault("progressive" as const)
    ),
    seed: seedFlag("Seed of draws and orders"),
    out: fileFlag("out", "Run directory for dataset/*.jsonl (required)", "DIR"),
    teacher: teacherFlag,
    recordings: recordingsFlag
  },
  Effect.fnUntraced(function* (flags) {
    const program = Effect.gen(function* () {
      const store = yield* RunStore
      const teacher = yield* Teacher
      const data = Option.getOrNull(flags.data)
      const config = yield* decodeRunConfig({
        data,
        limit: Option.getOrNull(flags.limit),
        order: flags.order,
        seed: flags.seed
      }).pipe(Effect.orDie)
      const inputsHash = hashJson({
        data: data === null ? null : yield* hashFile(data),
        limit: config.limit,
        order: config.order,
        seed: config.seed,
        teacher: teacher.name
      })
      const result = yield* store.stage({ name: "dataset", inputsHash, run: () => buildWorld(config) })
      yield* Console.log(`${result.skipped ? "nothing to do, already built:" : "built:"}`)
      for (const file of Object.keys(result.outputs)) yield* Console.log(`  ${store.path(file)}`)
    })
    yield* program.pipe(
      Effect.provide(
        Layer.mergeAll(
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
    "Build training data: repairs, gates, prompts and the curriculum; every reject keeps its reason"
  ),
  Command.withExamples([
    {
      command: "npm run srcode -- dataset build --data primevul_paired_dev.jsonl --limit 40 --out runs/data",
      description: "From PrimeVul rows"
    },
    { command: "npm run srcode -- dataset build --out runs/embedded", description: "The embedded corpus's tasks" }
  ])
)
