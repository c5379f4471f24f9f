/** The panel with some of its tools missing, and the answers of newer compilers than this machine has. */
import { assert, describe, it } from "@effect/vitest"
import { cwe } from "@srcode/domain"
import { Sandbox } from "@srcode/sandbox"
import { Effect, Layer } from "effect"
import { Analyzer } from "../src/index.ts"
import { gccFindings } from "../src/internal/panel/gcc.ts"
import { analyseSnippet } from "../src/internal/panel/panel.ts"
import { discoveryScript, type PanelTools, parseDiscovery } from "../src/internal/panel/script.ts"
import { loadShapes } from "../src/internal/panel/shape.ts"

const found = await Effect.runPromise(
  Sandbox.use((sandbox) =>
    sandbox.run({ files: { "find.sh": discoveryScript }, argv: ["/bin/sh", "/job/find.sh"] })
  ).pipe(
    Effect.map((result) => parseDiscovery(result.stdout)),
    Effect.catch(() => Effect.succeed<PanelTools>({ gcc: null, clang: null, cppcheck: null })),
    Effect.provide(Sandbox.layer)
  )
)
const complete = found.gcc !== null && found.clang !== null && found.cppcheck !== null
const code = "#include <stdlib.h>\nvoid f(void) { char *p = malloc(2); free(p); free(p); }"
const options = { fragments: "accept", toolSeconds: 10 } as const

const analyseWith = (tools: PanelTools, text: string) =>
  Effect.gen(function* () {
    const shapeOf = yield* loadShapes
    return yield* analyseSnippet({ id: "a", language: "c", code: text }, tools, shapeOf, options)
  }).pipe(Effect.provide(Sandbox.layer))

describe.skipIf(!complete)(
  `subsets of the panel${complete ? "" : " (skipped: not all of gcc, clang, cppcheck work here)"}`,
  () => {
    it.live("clang and cppcheck without gcc: clang checks that the text compiles", () =>
      Effect.gen(function* () {
        const tools = { ...found, gcc: null }
        const bad = yield* analyseWith(tools, code)
        assert.deepStrictEqual(bad._tag === "Alerts" ? bad.tools : [], ["clang-analyzer", "cppcheck"])
        const broken = yield* analyseWith(tools, "int f(u33 n) { return n; }")
        assert.deepStrictEqual(broken._tag === "Clean" ? broken.tools : [], ["cppcheck"])
      })
    )

    it.live("cppcheck alone", () =>
      Effect.gen(function* () {
        const tools = { gcc: null, clang: null, cppcheck: found.cppcheck }
        const answer = yield* analyseWith(tools, code)
        assert.deepStrictEqual(answer._tag === "Alerts" ? answer.tools : [], ["cppcheck"])
        const odd = yield* analyseWith(tools, "int f(void) { return 0; } struct {")
        assert.strictEqual(odd._tag, "NotAnalysed")
      })
    )

    it.live("gcc alone: a fragment has no tool left", () =>
      Effect.gen(function* () {
        const tools = { gcc: found.gcc, clang: null, cppcheck: null }
        const bad = yield* analyseWith(tools, code)
        assert.deepStrictEqual(bad._tag === "Alerts" ? bad.tools : [], ["gcc-analyzer", "gcc-warnings"])
        const fragment = yield* analyseWith(tools, "int f(u33 n) { return n; }")
        assert.deepInclude(fragment, { _tag: "NotAnalysed", reason: "no tool gave an answer" })
      })
    )

    it.live("forty snippets at once answer like one by one", () =>
      Effect.gen(function* () {
        const snippets = Array.from({ length: 40 }, (_, i) => ({
          id: `s${i}`,
          language: "c" as const,
          code: i % 3 === 0 ? code : `int f${i}(void) { return ${i}; }`
        }))
        const answers = yield* Analyzer.use((analyzer) => analyzer.analyze(snippets))
        assert.deepStrictEqual(
          answers.map(({ snippetId, _tag }) => `${snippetId} ${_tag}`),
          snippets.map(({ id }, i) => `${id} ${i % 3 === 0 ? "Alerts" : "Clean"}`)
        )
      }).pipe(Effect.provide(Analyzer.layerPanel.pipe(Layer.provide(Sandbox.layer))))
    )
  }
)

describe("gcc's answers", () => {
  const file = "/job/snippet.c"
  const read = (output: string, exitCode = 0) =>
    gccFindings("gcc-analyzer", { exitCode, output }, file, 'int a;\nx = "é"; free(p);')

  it.effect("JSON: classes from metadata or option, byte columns, notes and headers left out", () =>
    Effect.gen(function* () {
      const at = (line: number, column: number, name = file) => [{ caret: { file: name, line, "byte-column": column } }]
      const diagnostics = [
        {
          kind: "warning",
          option: "-Wanalyzer-double-free",
          message: "m",
          metadata: { cwe: 415 },
          locations: at(2, 11)
        },
        { kind: "warning", option: "-Wstringop-overflow=", message: "m", locations: at(1, 1) },
        { kind: "warning", option: "-Wunused-variable", message: "m", locations: at(1, 1) },
        { kind: "note", option: "-Warray-bounds", message: "m", locations: at(1, 1) },
        { kind: "warning", option: "-Warray-bounds", message: "m", locations: at(1, 1, "/usr/include/x.h") }
      ]
      const findings = yield* read(`cc1: some text\n${JSON.stringify(diagnostics)}\n`)
      assert.deepStrictEqual(
        findings?.map(({ cwes, line, column, severity }) => [cwes[0], line, column, severity]),
        [
          [cwe(415), 2, 9, "critical"],
          [cwe(787), 1, 0, "critical"]
        ]
      )
    })
  )

  it.effect("SARIF (gcc 15 has no JSON): classes from taxa", () =>
    Effect.gen(function* () {
      const result = (ruleId: string, uri: string, taxa?: ReadonlyArray<object>) => ({
        ruleId,
        level: "warning",
        message: { text: "m" },
        ...(taxa === undefined ? {} : { taxa }),
        locations: [{ physicalLocation: { artifactLocation: { uri }, region: { startLine: 2, startColumn: 10 } } }]
      })
      const sarif = {
        runs: [
          {
            tool: { driver: { name: "GNU C17", rules: [{ id: "-Wanalyzer-double-free" }] } },
            columnKind: "unicodeCodePoints",
            results: [
              result("-Wanalyzer-double-free", "/job/snippet.c", [{ id: "415", toolComponent: { name: "cwe" } }]),
              result("-Wuse-after-free", "/job/snippet.c"),
              result("-Wuse-after-free", "/usr/include/stdlib.h"),
              result("-Wunused-variable", "/job/snippet.c")
            ]
          }
        ]
      }
      const findings = yield* read(JSON.stringify(sarif))
      assert.deepStrictEqual(
        findings?.map(({ ruleId, cwes, line, column }) => [ruleId, cwes[0], line, column]),
        [
          ["-Wanalyzer-double-free", cwe(415), 2, 9],
          ["-Wuse-after-free", cwe(416), 2, 9]
        ]
      )
    })
  )

  it.effect("nothing to say is an answer; an error, a crash and cut-off text are none", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual(yield* read("[]"), [])
      assert.strictEqual(yield* read("[]", 1), undefined)
      assert.strictEqual(yield* read("", 139), undefined)
      assert.strictEqual(yield* read('[{"kind": "warn'), undefined)
      assert.strictEqual(yield* read('{"runs": ['), undefined)
      assert.strictEqual(yield* read(""), undefined)
    })
  )
})
