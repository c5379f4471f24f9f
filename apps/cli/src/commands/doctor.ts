/**
 * `srcode doctor`: what this machine can do, as a table or as JSON. Exit code 0 when the whole pipeline can run here:
 * a device to compute on, a sandbox to execute code in, and a C compiler to judge it with.
 */
import { Analyzer, type AnalyzerDescription, CodeQl, type CodeQlStatus } from "@srcode/codeql"
import { UserError } from "@srcode/domain"
import { Gpu } from "@srcode/gpu"
import { Sandbox } from "@srcode/sandbox"
import { Console, Effect, Layer, Result } from "effect"
import { Command, Flag } from "effect/cli"
import { deviceLayerFromFlags } from "../layers.ts"

interface Diagnosis {
  readonly node: string
  readonly adapter: (typeof Gpu.Service)["info"] | null
  readonly adapterProblem?: string
  readonly analyzers: ReadonlyArray<AnalyzerDescription>
  readonly codeql: CodeQlStatus
  readonly sandbox: { readonly available: boolean; readonly detail: string }
  readonly ok: boolean
}

const compilers = ["gcc", "clang"]
type Adapter = NonNullable<Diagnosis["adapter"]>
/** Dawn's null backend accepts everything and computes nothing. */
const computes = (adapter: Adapter): boolean => adapter.backend !== "null"
const kind = (adapter: Adapter): string =>
  computes(adapter) ? (adapter.software ? ", computes on the processor" : "") : ", computes nothing"

const diagnose = Effect.gen(function* () {
  const adapter = yield* Gpu.use((gpu) => Effect.succeed(gpu.info)).pipe(
    Effect.provide(deviceLayerFromFlags),
    Effect.result
  )
  const { analyzers, sandbox } = yield* Effect.gen(function* () {
    // The analyzers are asked inside the sandbox, where they will run: without it none can be used.
    return { sandbox: yield* (yield* Sandbox).status, analyzers: yield* (yield* Analyzer).describe }
  }).pipe(Effect.provide(Layer.provideMerge(Analyzer.layerPanel, Sandbox.layer)))
  const codeql = yield* CodeQl.use((service) => service.status).pipe(Effect.provide(CodeQl.layer))
  const compiler = analyzers.some((tool) => tool.found && compilers.includes(tool.name))
  const diagnosis: Diagnosis = {
    node: process.versions.node,
    adapter: Result.isSuccess(adapter) ? adapter.success : null,
    ...(Result.isFailure(adapter) ? { adapterProblem: adapter.failure.message } : {}),
    analyzers,
    codeql,
    sandbox,
    ok: Result.isSuccess(adapter) && computes(adapter.success) && sandbox.available && compiler
  }
  return diagnosis
})

const gibibytes = (bytes: number | undefined) => (bytes === undefined ? "?" : `${(bytes / 2 ** 30).toFixed(2)} GiB`)

const table = (diagnosis: Diagnosis): ReadonlyArray<string> => {
  const row = (name: string, text: string) => `${name.padEnd(12)} ${text}`
  const tool = ({ found, name, version }: AnalyzerDescription) => row(name, found ? (version ?? "found") : "not found")
  const { adapter } = diagnosis
  return [
    row("node", diagnosis.node),
    ...(adapter === null
      ? [row("adapter", `none: ${diagnosis.adapterProblem ?? "unknown reason"}`)]
      : [
          row("adapter", `${adapter.name} (${adapter.backend}${kind(adapter)})`),
          row("", `largest buffer binding ${gibibytes(adapter.limits.maxStorageBufferBindingSize)}`),
          row("", `features: ${adapter.features.join(", ") || "none"}`)
        ]),
    ...diagnosis.analyzers.map(tool),
    row("codeql", diagnosis.codeql.found ? (diagnosis.codeql.version ?? "found") : "not found (optional)"),
    row(
      "sandbox",
      diagnosis.sandbox.available ? diagnosis.sandbox.detail : `not available: ${diagnosis.sandbox.detail}`
    ),
    row("ok", diagnosis.ok ? "yes: the whole pipeline can run here" : "no")
  ]
}

const missing = ({ adapter, adapterProblem, analyzers, sandbox }: Diagnosis): string => {
  const parts = [
    ...(adapter === null ? [`no device (${adapterProblem ?? "unknown reason"})`] : []),
    ...(adapter !== null && !computes(adapter) ? ["the null device computes nothing"] : []),
    ...(sandbox.available ? [] : [`no sandbox (${sandbox.detail})`]),
    ...(analyzers.some((tool) => tool.found && compilers.includes(tool.name)) ? [] : ["no C compiler (gcc or clang)"])
  ]
  return `this machine cannot run the whole pipeline: ${parts.join("; ")}`
}

export const doctor = Command.make(
  "doctor",
  {
    json: Flag.Boolean("json").pipe(
      Flag.withDescription("Print one JSON object instead of a table"),
      Flag.withDefault(false)
    )
  },
  Effect.fnUntraced(function* ({ json }) {
    const diagnosis = yield* diagnose
    if (json) yield* Console.log(JSON.stringify(diagnosis, null, 2))
    else for (const line of table(diagnosis)) yield* Console.log(line)
    if (!diagnosis.ok) return yield* new UserError({ message: missing(diagnosis), hint: 'run "npm run setup"' })
  })
).pipe(
  Command.withDescription("Tell what this machine can do: device, analyzers, sandbox"),
  Command.withExamples([
    { command: "npm run srcode -- doctor", description: "A table for a person" },
    {
      command: "npm run srcode -- doctor --json",
      description: "The same as JSON, with all features and limits of the device"
    },
    { command: "npm run srcode -- doctor --device swiftshader", description: "Whether a certain device works here" }
  ])
)
