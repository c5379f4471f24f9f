/**
 * `bench/gpu-check [--out FOLDER] [--minutes 8] [--only NAME,…] [--device NAME] [--size full|tiny] [--compare]`: verifies and
 * measures everything on this device. One process a section, so that neither a crash nor a hang of one costs the others; each has a
 * part of the time that is its own (schedule.ts); the report is written after each, and each section's findings survive its being
 * killed. `--compare` measures PyTorch beside it (bench/compare), all in 10 minutes. Needs no network. Exit code 1 when something did not verify or a section did not finish.
 */
import { fileURLToPath } from "node:url"
import { NodeRuntime, NodeServices } from "@effect/platform-node"
import { Calibration, deviceChoices, GpuDawn } from "@srcode/gpu"
import { Clock, Console, Effect, FileSystem, Layer, Option, Path } from "effect"
import { ChildProcess, ChildProcessSpawner } from "effect/process"
import { argumentsOf, chosen } from "../arguments.ts"
import { makeReport, Report, type Size, tryingFile, writeAtomic } from "./Report.ts"
import { deadlinesOf, secondsFor, worthStarting } from "./schedule.ts"
import { type Section, sections } from "./sections.ts"
import { summarise } from "./summary.ts"

const text = { type: "string" } as const
const usage = `usage: bench/gpu-check [--out FOLDER] [--minutes N] [--only ${sections.map(({ name }) => name).join(",")}]
  [--device ${deviceChoices.join("|")}] [--size full|tiny] [--compare] [--python PROGRAM] [--torch-device cuda|cpu]`
const { values } = argumentsOf(usage, {
  options: {
    out: { ...text, default: "gpu-check" },
    minutes: text,
    only: { ...text, default: "" },
    device: { ...text, default: "auto" },
    size: { ...text, default: "full" },
    compare: { type: "boolean", default: false },
    python: { ...text, default: "python3" },
    "torch-device": { ...text, default: "cuda" },
    /** For tests: a module whose `sections` stand in front of the others. */
    before: text,
    /** For the process of one section: which, and how many seconds it has. */
    section: text,
    seconds: text
  }
})
const device = chosen("device", values.device, deviceChoices)
const size: Size = chosen("size", values.size, ["full", "tiny"])

/** All sections there are. */
const known = Effect.gen(function* () {
  const { before } = values
  if (before === undefined) return sections
  const path = yield* Path.Path
  const module: { readonly sections: ReadonlyArray<Section> } = yield* Effect.promise(
    () => import(path.resolve(before))
  )
  return [...module.sections, ...sections]
})

/**
 * A device with the rungs that the calibration section found; where that has left nothing, a quick one, so that a crash there does not
 * cost the time of others.
 */
const tuned = (left: number) => Calibration.layerWith({ seconds: Math.min(15, left / 4) })

/** One section in this process. */
const alone = Effect.fnUntraced(function* (section: Section) {
  const path = yield* Path.Path
  const seconds = Number(values.seconds ?? 600)
  const file = path.join(values.out, `.${section.name}.json`)
  const report = yield* makeReport({ file, folder: values.out, size, device, seconds })
  const plain = GpuDawn.layerWith({ device })
  yield* section.run.pipe(
    Effect.scoped,
    Effect.provide(section.tuned === true ? tuned(seconds).pipe(Layer.provide(plain)) : plain),
    Effect.catchCause((cause) => report.add("problems", { part: section.name, problem: String(cause).slice(0, 2000) })),
    Effect.provideService(Report, report)
  )
  return 0
})

/** The comparison stands behind this section; its part of the time is beside the 480 seconds of the others. */
const comparison = { name: "compare", part: 220, after: "decoding" }

const smallest = ["--layers", "1", "--batch", "2", "--sequence", "12", "--prompt", "5", "--new", "4", "--prefill", "7"]

/** The comparison as a program of its own, which writes `file`; it ends by itself before its time is up. */
const comparing = (limit: number, file: string): ReadonlyArray<string> => [
  fileURLToPath(new URL("../compare/main.ts", import.meta.url)),
  ...["--seconds", Math.max(1, limit - 4).toFixed(1), "--out", file, "--device", device],
  ...["--python", values.python, "--torch-device", values["torch-device"]],
  ...(size === "tiny" ? ["--preset", "tiny-llama", ...smallest, "--gen-batch", "1,3", "--rounds", "1"] : [])
]

interface Outcome {
  readonly status: "done" | "ended early" | "out of time"
  /** Seconds it took, and those it had. */
  readonly seconds: number
  readonly limit: number
  readonly code?: number
  /** What was being tried when it ended other than by itself. */
  readonly during?: string
  readonly found: unknown
}

/** Runs a program within `limit` seconds; its exit code, none where it had to be stopped. */
const within = Effect.fnUntraced(function* (limit: number, args: ReadonlyArray<string>, cache: string) {
  const spawner = yield* ChildProcessSpawner.ChildProcessSpawner
  return yield* Effect.gen(function* () {
    const handle = yield* spawner.spawn(
      ChildProcess.make(process.execPath, [...args], {
        ...{ stdout: "inherit", stderr: "inherit", extendEnv: true },
        // What is calibrated here is this run's finding, not one of another day.
        env: { SRCODE_CACHE: cache },
        // What hangs in a driver hears nothing, and may not even end then.
        ...{ killSignal: "SIGKILL", forceKillAfter: "2 seconds" }
      })
    )
    return yield* handle.exitCode
  }).pipe(
    Effect.scoped,
    Effect.timeoutOption(`${Math.max(1, Math.round(1000 * limit))} millis`),
    Effect.map(Option.map(Number)),
    Effect.catch(() => Effect.succeed(Option.some(-1)))
  )
})

/** One section in a process of its own, within `limit` seconds. */
const spawned = Effect.fnUntraced(function* (name: string, limit: number, cache: string) {
  const fs = yield* FileSystem.FileSystem
  const path = yield* Path.Path
  const started = yield* Clock.currentTimeMillis
  const hook = values.before === undefined ? [] : ["--before", values.before]
  const own = ["--section", name, "--seconds", limit.toFixed(1), "--out", values.out, "--device", device]
  const compares = name === comparison.name
  const file = path.join(values.out, compares ? "compare.json" : `.${name}.json`)
  if (compares) yield* fs.remove(file, { force: true })
  const args = compares ? comparing(limit, file) : [process.argv[1] ?? "", ...own, "--size", size, ...hook]
  const code = yield* within(limit, args, cache)
  const found: unknown = yield* fs.readFileString(file).pipe(
    Effect.map((text): unknown => JSON.parse(text)),
    Effect.catch(() => Effect.succeed(null))
  )
  if (!compares) yield* Effect.ignore(fs.remove(file))
  const tried = yield* Effect.option(fs.readFileString(tryingFile(file)))
  yield* fs.remove(tryingFile(file), { force: true })
  const seconds = ((yield* Clock.currentTimeMillis) - started) / 1000
  const during = Option.isSome(tried) && Option.getOrElse(code, () => -1) !== 0 ? { during: tried.value } : {}
  const outcome: Outcome = Option.isNone(code)
    ? { status: "out of time", seconds, limit, ...during, found }
    : { status: code.value === 0 ? "done" : "ended early", seconds, limit, code: code.value, ...during, found }
  return outcome
})

const all = Effect.gen(function* () {
  const fs = yield* FileSystem.FileSystem
  const path = yield* Path.Path
  const every = (yield* known).flatMap(
    (section): ReadonlyArray<{ readonly name: string; readonly part: number }> =>
      values.compare && section.name === comparison.after ? [section, comparison] : [section]
  )
  const wanted = every.filter(({ name }) => values.only === "" || values.only.split(",").includes(name))
  const minutes = Number(values.minutes ?? (values.compare ? 10 : 8))
  if (!(minutes > 0) || wanted.length === 0) {
    const names = every.map(({ name }) => name).join(",")
    yield* Console.error(
      `usage: gpu-check [--out FOLDER] [--minutes N] [--only ${names}] [--size full|tiny] [--compare]`
    )
    return 1
  }
  yield* fs.makeDirectory(values.out, { recursive: true })
  const cache = yield* fs.makeTempDirectoryScoped({ prefix: "srcode-gpu-check-" })
  const file = path.join(values.out, "gpu-check.json")
  const start = yield* Clock.currentTimeMillis
  const elapsed = Effect.map(Clock.currentTimeMillis, (now) => (now - start) / 1000)
  const deadlines = deadlinesOf(
    wanted.map(({ part }) => part),
    60 * minutes
  )
  const report: Record<string, Outcome> = {}
  const late: Array<string> = []
  let good = true
  for (const [i, { name }] of wanted.entries()) {
    const limit = secondsFor(deadlines, i, yield* elapsed)
    const outcome: Outcome =
      limit < worthStarting
        ? { status: "out of time", seconds: 0, limit, found: null }
        : yield* spawned(name, limit, cache)
    report[name] = outcome
    yield* writeAtomic(file, { size, minutes, sections: report })
    const { lines, ok } = summarise(name, outcome.found)
    if (outcome.status === "out of time") late.push(name)
    good = good && (ok || (late.includes(name) && outcome.found === null)) && outcome.status !== "ended early"
    yield* Console.log(
      `${name}: ${outcome.status} after ${outcome.seconds.toFixed(1)} of ${outcome.limit.toFixed(0)} s`
    )
    if (outcome.during !== undefined) yield* Console.log(`  ended while trying ${outcome.during}`)
    for (const line of lines) yield* Console.log(`  ${line}`)
  }
  const verdict = !good ? "NOT all verified" : late.length > 0 ? "nothing failed" : "all verified"
  const rest = late.length > 0 ? `; out of time: ${late.join(", ")}` : ""
  yield* Console.log(`${verdict}${rest}; written to ${file}`)
  return good && late.length === 0 ? 0 : 1
}).pipe(Effect.scoped)

const program = Effect.gen(function* () {
  if (values.section === undefined) return yield* all
  const section = (yield* known).find(({ name }) => name === values.section)
  return section === undefined ? 1 : yield* alone(section)
})
NodeRuntime.runMain(
  program.pipe(
    Effect.provide(NodeServices.layer),
    Effect.tap((code) => Effect.sync(() => void (process.exitCode = code)))
  )
)
