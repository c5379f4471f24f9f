/**
 * The port behind which all static analysis stands. One answer per snippet, in input order, in three states.
 *
 * Layers: `layerPanel` (gcc, clang and cppcheck, whichever are installed, inside the sandbox), `layerCodeQl` (through the
 * `CodeQl` service), `layerTest`.
 */
import { availableParallelism } from "node:os"
import type { Analysis, Snippet } from "@srcode/domain"
import { Sandbox } from "@srcode/sandbox"
import { Config, Context, Effect, Layer } from "effect"
import { AnalyzerError } from "./AnalyzerError.ts"
import { CodeQl } from "./CodeQl.ts"
import { analyseSnippet, type PanelOptions } from "./internal/panel/panel.ts"
import { discoveryScript, type PanelTools, parseDiscovery } from "./internal/panel/script.ts"
import { loadShapes } from "./internal/panel/shape.ts"

export interface AnalyzerDescription {
  readonly name: string
  readonly version: string | null
  readonly found: boolean
}

const installPanel = "install one of them: `apt install gcc clang cppcheck`"

export class Analyzer extends Context.Service<
  Analyzer,
  {
    /** The tools behind this layer, for reports and run manifests. Never fails. */
    readonly describe: Effect.Effect<ReadonlyArray<AnalyzerDescription>>
    /** Result i answers snippet i. Fails only when nothing at all can be analysed here. */
    analyze(snippets: ReadonlyArray<Snippet>): Effect.Effect<ReadonlyArray<Analysis>, AnalyzerError>
  }
>()("@srcode/codeql/Analyzer") {
  /** The panel with options; `fragments: "refuse"` is for code that has to stand alone, such as rewarded completions. */
  static readonly layerPanelWith = (options: Partial<PanelOptions> = {}) =>
    Layer.effect(
      Analyzer,
      Effect.gen(function* () {
        const sandbox = yield* Sandbox
        const concurrency = yield* Config.Int("ANALYZER_CONCURRENCY").pipe(
          Config.withDefault(Math.min(8, availableParallelism())),
          Effect.mapError((error) => AnalyzerError.failed(`setting ANALYZER_CONCURRENCY: ${error.message}`))
        )
        const settings: PanelOptions = { fragments: "accept", toolSeconds: 10, ...options }
        const shapes = yield* Effect.cached(loadShapes)
        const tools = yield* Effect.cached(
          sandbox
            .run({ files: { "find.sh": discoveryScript }, argv: ["/bin/sh", "/job/find.sh"] })
            .pipe(Effect.map((result) => parseDiscovery(result.stdout)))
        )
        const analyze = Effect.fn("Analyzer.analyze")(
          function* (snippets: ReadonlyArray<Snippet>) {
            if (snippets.length === 0) return []
            const found = yield* tools
            if (found.gcc === null && found.clang === null && found.cppcheck === null) {
              return yield* AnalyzerError.unavailable(
                "none of gcc, clang and cppcheck works in the sandbox",
                installPanel
              )
            }
            const shapeOf = yield* shapes
            return yield* Effect.forEach(snippets, (snippet) => analyseSnippet(snippet, found, shapeOf, settings), {
              concurrency
            })
          },
          Effect.catchTag("SandboxError", (error) =>
            Effect.fail(
              error.reason._tag === "SandboxUnavailable"
                ? AnalyzerError.unavailable(error.reason.detail, error.reason.install)
                : AnalyzerError.failed(error.message)
            )
          ),
          Effect.provideService(Sandbox, sandbox)
        )
        const describe = tools.pipe(
          Effect.map(describePanel),
          Effect.catch(() => Effect.succeed(describePanel({ gcc: null, clang: null, cppcheck: null })))
        )
        return Analyzer.of({ describe, analyze })
      })
    )

  static readonly layerPanel = Analyzer.layerPanelWith()

  static readonly layerCodeQl = Layer.effect(
    Analyzer,
    Effect.gen(function* () {
      const codeQl = yield* CodeQl
      const describe = codeQl.status.pipe(Effect.map(({ found, version }) => [{ name: "codeql", version, found }]))
      return Analyzer.of({ describe, analyze: codeQl.analyze })
    })
  )

  /** Answers each snippet by a function. */
  static readonly layerTest = (answer: (snippet: Snippet) => Analysis | Effect.Effect<Analysis, AnalyzerError>) =>
    Layer.succeed(
      Analyzer,
      Analyzer.of({
        describe: Effect.succeed([{ name: "test", version: null, found: true }]),
        analyze: (snippets) =>
          Effect.forEach(snippets, (snippet) => {
            const given = answer(snippet)
            return Effect.isEffect(given) ? given : Effect.succeed(given)
          })
      })
    )
}

const describePanel = (tools: PanelTools): ReadonlyArray<AnalyzerDescription> => [
  { name: "gcc", version: tools.gcc?.version ?? null, found: tools.gcc !== null },
  { name: "clang", version: tools.clang?.version ?? null, found: tools.clang !== null },
  { name: "cppcheck", version: tools.cppcheck?.version ?? null, found: tools.cppcheck !== null }
]
