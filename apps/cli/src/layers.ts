/** The composition root: which layer stands behind which service. The only place that decides it. */
import { Analyzer, CodeQl } from "@srcode/codeql"
import { CorpusJudge, Dataset } from "@srcode/dataset"
import { UserError } from "@srcode/domain"
import { Calibration, type DeviceChoice, deviceChoices, Gpu, GpuDawn, gpuError, NoAdapter } from "@srcode/gpu"
import { Progress } from "@srcode/pipeline"
import { Sandbox } from "@srcode/sandbox"
import { Teacher, TeacherChat, TeacherReplay, TeacherRules } from "@srcode/teacher"
import { Trainer } from "@srcode/trainer"
import { Config, Context, Effect, Layer, Option, Schema } from "effect"
import { Flag } from "effect/cli"
import { makeProgress } from "./progress.ts"
import { fileFlag, srcode } from "./root.ts"

const computesNothing = Effect.fail(
  gpuError(new NoAdapter({ requested: "null", hint: "it computes nothing; choose another --device" }))
)

/**
 * The null device checks shaders and dispatches and computes nothing: its zeros and times must not be taken for results.
 * Whoever waits for its work, and loading a model does, is told.
 */
const withoutResults = (gpu: typeof Gpu.Service) =>
  Gpu.of({ ...gpu, read: () => computesNothing, idle: computesNothing, profile: () => computesNothing })

const Bytes = Schema.FiniteFromString.check(Schema.isGreaterThanOrEqualTo(0))

/** The compute device for a choice; `SRCODE_GPU_MEMORY` (bytes) bounds what it may allocate. */
export const gpuLayer = (device: DeviceChoice) =>
  Layer.unwrap(
    Effect.gen(function* () {
      const memory = yield* Config.schema(Bytes, "SRCODE_GPU_MEMORY").pipe(
        Config.withDefault(0),
        Effect.mapError(() => new UserError({ message: "SRCODE_GPU_MEMORY must be a number of bytes, such as 16e9" }))
      )
      const layer = GpuDawn.layerWith(memory > 0 ? { device, memory } : { device })
      return device === "null"
        ? layer.pipe(Layer.flatMap((context) => Layer.succeed(Gpu, withoutResults(Context.get(context, Gpu)))))
        : layer
    })
  )

/** `--device`, else `SRCODE_DEVICE`, else auto. */
export const chosenDevice = Effect.gen(function* () {
  const { device } = yield* srcode
  if (Option.isSome(device)) return device.value
  return yield* Config.Literals(deviceChoices, "SRCODE_DEVICE").pipe(
    Config.withDefault("auto" as const),
    Effect.mapError(() => new UserError({ message: `SRCODE_DEVICE must be one of ${deviceChoices.join(", ")}` }))
  )
})

/** The compute device that the command line asked for, as it is. */
export const deviceLayerFromFlags = Layer.unwrap(Effect.map(chosenDevice, gpuLayer))

/** The same with the kernels that suit it best (hardware is calibrated once, see docs/setup.md), and training on it. */
export const gpuLayerFromFlags = Trainer.layer.pipe(
  Layer.provideMerge(Calibration.layer.pipe(Layer.provide(deviceLayerFromFlags)))
)

/** Who teaches: the embedded rules, a chat-completions server (`SRCODE_TEACHER_URL`, `_MODEL`, `_KEY`), or recorded answers. */
export const teacherFlag = Flag.Literals("teacher", ["rules", "chat", "replay"]).pipe(
  Flag.withDescription(
    "Who teaches: the embedded rules (the default), a chat-completions server, or recorded answers (with --recordings)"
  ),
  Flag.withDefault("rules" as const)
)

export const recordingsFlag = fileFlag(
  "recordings",
  "Directory of a teacher's answers: replayed with --teacher replay, recorded with --teacher chat",
  "DIR"
).pipe(Flag.optional)

export const teacherLayer = (kind: "rules" | "chat" | "replay", recordings: Option.Option<string>) => {
  const misconfigured = (error: unknown) =>
    new UserError({
      message: `the chat teacher is not configured: ${/SRCODE_TEACHER_\w+/.exec(String(error))?.[0] ?? "a setting"} is missing or has no valid value`,
      hint: "set SRCODE_TEACHER_URL and SRCODE_TEACHER_MODEL, and SRCODE_TEACHER_KEY where the server wants one"
    })
  switch (kind) {
    case "rules":
      return TeacherRules.layer
    case "chat": {
      const chat = TeacherChat.layer.pipe(
        Layer.catch((error) => Layer.effect(Teacher, Effect.fail(misconfigured(error))))
      )
      return Option.isSome(recordings) ? TeacherReplay.record(recordings.value).pipe(Layer.provide(chat)) : chat
    }
    case "replay":
      return Option.isSome(recordings)
        ? TeacherReplay.layer(recordings.value)
        : Layer.effect(Teacher, Effect.fail(new UserError({ message: "--teacher replay needs --recordings DIR" })))
  }
}

/** Execution in the sandbox, the judge of the embedded corpus, and CodeQL where it is installed, else the analyzer panel. */
export const judgingLayer = Layer.unwrap(
  Effect.gen(function* () {
    const status = yield* Effect.flatMap(CodeQl, (codeQl) => codeQl.status).pipe(Effect.provide(CodeQl.layer))
    const analyzer = status.found ? Analyzer.layerCodeQl.pipe(Layer.provide(CodeQl.layer)) : Analyzer.layerPanel
    return Layer.mergeAll(analyzer, CorpusJudge.layer, Dataset.layer).pipe(Layer.provide(Sandbox.layer))
  })
)

/** Progress on the terminal for the programs of @srcode/pipeline. */
export const progressLayer = Layer.effect(Progress, makeProgress)
