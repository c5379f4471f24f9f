/**
 * A 0.5B checkpoint at every precision: written with random weights unless a folder is given, then one process a precision.
 * How far the log-probabilities of each are from those in 32 bits is recorded beside its speed.
 */
import { Clock, Console, Effect, FileSystem, Path, Schema } from "effect"
import { ChildProcess, ChildProcessSpawner } from "effect/process"
import type { Variant } from "./variant.ts"

/** In 32 bits first: the others are held against it. */
const variants: ReadonlyArray<Variant> = [
  { dtype: "f32", quantize: "none" },
  { dtype: "auto", quantize: "none" },
  { dtype: "auto", quantize: "int8" },
  { dtype: "auto", quantize: "int4" }
]

export const preset = "qwen2.5-coder-0.5b"

export class CheckpointError extends Schema.TaggedError<CheckpointError>()("CheckpointError", {
  message: Schema.String
}) {}

/** What a variant's process leaves; more fields are kept as they are. */
const Answer = Schema.fromJsonString(
  Schema.Struct({
    variant: Schema.StructWithRest(
      Schema.Struct({
        score: Schema.StructWithRest(Schema.Struct({ logProbs: Schema.Array(Schema.Finite) }), [
          Schema.Record(Schema.String, Schema.Unknown)
        ])
      }),
      [Schema.Record(Schema.String, Schema.Unknown)]
    )
  })
)

const run = Effect.fnUntraced(function* (program: string, args: ReadonlyArray<string>) {
  const spawner = yield* ChildProcessSpawner.ChildProcessSpawner
  const handle = yield* spawner.spawn(
    ChildProcess.make(process.execPath, [program, ...args], { stdout: "inherit", stderr: "inherit", extendEnv: true })
  )
  const code = yield* handle.exitCode
  if (code !== 0) yield* new CheckpointError({ message: `${program} ended with code ${code}; see its output above` })
}, Effect.scoped)

const source = (relative: string): string => new URL(relative, import.meta.url).pathname

/** `model` is a folder; without one, a random checkpoint of the preset's shape is written to a temporary place. */
export const measureCheckpoint = Effect.fn("bench.checkpoint")(function* (options: {
  readonly model: string | undefined
  readonly device: string
  readonly rounds: number
}) {
  const fs = yield* FileSystem.FileSystem
  const path = yield* Path.Path
  const folder = yield* fs.makeTempDirectoryScoped({ prefix: "srcode-checkpoint-" })
  const model = options.model ?? path.join(folder, "model")
  const started = yield* Clock.currentTimeNanos
  if (options.model === undefined) {
    yield* run(source("../../../packages/model/scripts/random-checkpoint.ts"), ["--preset", preset, "--out", model])
    yield* Console.log(`written in ${(Number((yield* Clock.currentTimeNanos) - started) / 1e9).toFixed(1)} s`)
  }
  let exact: ReadonlyArray<number> | undefined
  const results = []
  for (const [i, { dtype, quantize }] of variants.entries()) {
    const out = path.join(folder, `${i}.json`)
    yield* run(source("../main.ts"), [
      "variant",
      ...["--model", model, "--dtype", dtype, "--quantize", quantize],
      ...["--device", options.device, "--rounds", String(options.rounds), "--out", out]
    ])
    const { variant } = yield* Schema.decodeUnknownEffect(Answer)(yield* fs.readFileString(out))
    const { logProbs, ...score } = variant.score
    exact ??= logProbs
    const apart = logProbs.map((x, t) => Math.abs(x - (exact?.[t] ?? Number.NaN)))
    results.push({
      ...variant,
      score: {
        ...score,
        meanLogProb: logProbs.reduce((sum, x) => sum + x, 0) / logProbs.length,
        worstLogProbDifference: Math.max(...apart),
        meanLogProbDifference: apart.reduce((sum, x) => sum + x, 0) / apart.length
      }
    })
  }
  return { checkpoint: { shape: options.model === undefined ? preset : path.basename(model), variants: results } }
}, Effect.scoped)
