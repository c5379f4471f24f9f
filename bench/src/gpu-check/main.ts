/**
 * `bench/gpu-check [--out FOLDER] [--minutes 8] [--only NAME,…] [--device NAME] [--size full|tiny]`: verifies and measures
 * everything on this device. One process a section, so that neither a crash nor a hang of one costs the others; the report is
 * written after each, and each section's findings survive its being killed. Needs no network. Exit code 1 when something
 * did not verify or a section did not finish.
 */
import { parseArgs } from "node:util"
import { NodeRuntime, NodeServices } from "@effect/platform-node"
import { Calibration, type DeviceChoice, deviceChoices, type Gpu, GpuDawn } from "@srcode/gpu"
import { Clock, Console, Effect, FileSystem, Layer, Option, Path, type Scope } from "effect"
import { ChildProcess, ChildProcessSpawner } from "effect/process"
import { calibration } from "./calibration.ts"
import { capabilities } from "./capabilities.ts"
import { attentionLadder, productLadder } from "./ladder.ts"
import { consistency, largeModel, smallModel } from "./models.ts"
import { makeReport, Report, type Size, writeAtomic } from "./Report.ts"
import { summarise } from "./summary.ts"
import { productVerification, verification } from "./verification.ts"

/** In the order of what would be missed most; seconds that each may take at most. */
const sections = {
  capabilities: { seconds: 45, run: capabilities },
  calibration: { seconds: 90, run: calibration },
  verification: { seconds: 60, run: verification },
  large: { seconds: 150, run: largeModel },
  matmul: { seconds: 100, run: productLadder },
  products: { seconds: 120, run: productVerification },
  attention: { seconds: 50, run: attentionLadder },
  small: { seconds: 60, run: smallModel },
  consistency: { seconds: 60, run: consistency }
} as const
type SectionName = keyof typeof sections
const names: ReadonlyArray<SectionName> = [
  "capabilities",
  "calibration",
  "verification",
  "large",
  "matmul",
  "products",
  "attention",
  "small",
  "consistency"
]

const { values } = parseArgs({
  options: {
    out: { type: "string", default: "gpu-check" },
    minutes: { type: "string", default: "8" },
    only: { type: "string", default: "" },
    device: { type: "string", default: "auto" },
    size: { type: "string", default: "full" },
    section: { type: "string" }
  }
})
const device: DeviceChoice = deviceChoices.find((d) => d === values.device) ?? "auto"
const size: Size = values.size === "tiny" ? "tiny" : "full"
const wanted = names.filter((name) => values.only === "" || values.only.split(",").includes(name))

/** Whole models run as they do for users: with the rungs that calibration found. */
const tuned: ReadonlyArray<SectionName> = ["large", "small", "consistency"]

/** One section in this process. */
const alone = (name: SectionName) =>
  Effect.gen(function* () {
    const path = yield* Path.Path
    const report = yield* makeReport(path.join(values.out, `.${name}.json`), values.out, size)
    // Typed as one of them: the sections differ in what they can fail with.
    const work: Effect.Effect<void, unknown, Gpu | Report | NodeServices.NodeServices | Scope.Scope> =
      sections[name].run
    const plain = GpuDawn.layerWith({ device })
    yield* work.pipe(
      Effect.scoped,
      Effect.provide(tuned.includes(name) ? Calibration.layer.pipe(Layer.provide(plain)) : plain),
      Effect.catchCause((cause) => report.add("problems", { part: name, problem: String(cause).slice(0, 2000) })),
      Effect.provideService(Report, report)
    )
    return 0
  })

interface Outcome {
  readonly status: "done" | "ended early" | "out of time"
  readonly seconds: number
  readonly code?: number
  readonly found: unknown
}

/** One section in a process of its own, within `limit` seconds. */
const spawned = Effect.fnUntraced(function* (name: SectionName, limit: number, cache: string) {
  const fs = yield* FileSystem.FileSystem
  const path = yield* Path.Path
  const spawner = yield* ChildProcessSpawner.ChildProcessSpawner
  const started = yield* Clock.currentTimeMillis
  const args = ["--section", name, "--out", values.out, "--device", device, "--size", size]
  const code = yield* Effect.gen(function* () {
    const handle = yield* spawner.spawn(
      ChildProcess.make(process.execPath, [process.argv[1] ?? "", ...args], {
        ...{ stdout: "inherit", stderr: "inherit", extendEnv: true },
        // What is calibrated here is this run's finding, not one of another day.
        env: { SRCODE_CACHE: cache },
        // What hangs in a driver hears nothing.
        killSignal: "SIGKILL"
      })
    )
    return yield* handle.exitCode
  }).pipe(
    Effect.scoped,
    Effect.timeoutOption(`${Math.max(1, Math.round(limit))} seconds`),
    Effect.catch(() => Effect.succeed(Option.some(-1)))
  )
  const file = path.join(values.out, `.${name}.json`)
  const found: unknown = yield* fs.readFileString(file).pipe(
    Effect.map((text): unknown => JSON.parse(text)),
    Effect.catch(() => Effect.succeed(null))
  )
  yield* Effect.ignore(fs.remove(file))
  const seconds = ((yield* Clock.currentTimeMillis) - started) / 1000
  const outcome: Outcome = Option.isNone(code)
    ? { status: "out of time", seconds, found }
    : { status: code.value === 0 ? "done" : "ended early", seconds, code: Number(code.value), found }
  return outcome
})

const all = Effect.gen(function* () {
  const fs = yield* FileSystem.FileSystem
  const path = yield* Path.Path
  const minutes = Number(values.minutes)
  if (!(minutes > 0) || wanted.length === 0) {
    yield* Console.error(`usage: gpu-check [--out FOLDER] [--minutes N] [--only ${names.join(",")}] [--size full|tiny]`)
    return 1
  }
  yield* fs.makeDirectory(values.out, { recursive: true })
  const cache = yield* fs.makeTempDirectoryScoped({ prefix: "srcode-gpu-check-" })
  const file = path.join(values.out, "gpu-check.json")
  const end = (yield* Clock.currentTimeMillis) + minutes * 60_000
  const report: Record<string, Outcome> = {}
  let good = true
  for (const name of wanted) {
    const left = (end - (yield* Clock.currentTimeMillis)) / 1000
    if (left < 5) {
      report[name] = { status: "out of time", seconds: 0, found: null }
      good = false
      continue
    }
    const outcome = yield* spawned(name, Math.min(sections[name].seconds, left), cache)
    report[name] = outcome
    yield* writeAtomic(file, { size, minutes, sections: report })
    const { lines, ok } = summarise(name, outcome.found)
    good = good && ok && outcome.status === "done"
    yield* Console.log(`${name}: ${outcome.status} after ${outcome.seconds.toFixed(1)} s`)
    for (const line of lines) yield* Console.log(`  ${line}`)
  }
  yield* writeAtomic(file, { size, minutes, sections: report })
  yield* Console.log(`${good ? "all verified" : "NOT all verified"}; written to ${file}`)
  return good ? 0 : 1
}).pipe(Effect.scoped)

const section = names.find((name) => name === values.section)
NodeRuntime.runMain(
  (section === undefined ? all : alone(section)).pipe(
    Effect.provide(NodeServices.layer),
    Effect.tap((code) => Effect.sync(() => void (process.exitCode = code)))
  )
)
