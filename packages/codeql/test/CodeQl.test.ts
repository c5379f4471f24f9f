/**
 * The driver against a stand-in executable (CodeQL itself may not be redistributed): real processes, real files, recorded
 * results, injected faults. What these tests cannot show is how the real extractor reads a given snippet.
 */
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync
} from "node:fs"
import { tmpdir } from "node:os"
import { dirname, join } from "node:path"
import { fileURLToPath } from "node:url"
import { assert, describe, it } from "@effect/vitest"
import { type Analysis, cwe, type Snippet } from "@srcode/domain"
import { ConfigProvider, Effect, Fiber, Layer, References, Schema } from "effect"
import { Analyzer, CodeQl } from "../src/index.ts"

const fixtures = join(dirname(fileURLToPath(import.meta.url)), "fixtures")
const CallLine = Schema.fromJsonString(
  Schema.Struct({ argv: Schema.Array(Schema.String), env: Schema.Array(Schema.String) })
)

/** A folder holding an executable `codeql`; removed with the scope. */
const installStandIn = (plan: object) =>
  Effect.acquireRelease(
    Effect.sync(() => {
      const folder = mkdtempSync(join(tmpdir(), "srcode-stand-in-"))
      copyFileSync(join(fixtures, "codeql-stand-in.mjs"), join(folder, "stand-in.mjs"))
      copyFileSync(join(fixtures, "recorded.json"), join(folder, "recorded.json"))
      writeFileSync(join(folder, "plan.json"), JSON.stringify(plan))
      writeFileSync(join(folder, "codeql"), `#!/bin/sh\nexec "${process.execPath}" "${folder}/stand-in.mjs" "$@"\n`)
      chmodSync(join(folder, "codeql"), 0o755)
      return folder
    }),
    (folder) => Effect.sync(() => rmSync(folder, { recursive: true, force: true }))
  )

const layerFor = (settings: Record<string, unknown>) =>
  CodeQl.layer.pipe(Layer.provide(ConfigProvider.layer(ConfigProvider.fromUnknown(settings))))

const snippet = (id: string, code: string, language: Snippet["language"] = "c"): Snippet => ({ id, language, code })
const clean = (id: string) => snippet(id, `int ${id}(void) { return 0; }`)

const callsOf = (folder: string) =>
  readFileSync(join(folder, "calls.jsonl"), "utf8")
    .trim()
    .split("\n")
    .map((line) => Schema.decodeUnknownSync(CallLine)(line))

const databaseCalls = (folder: string, command: string) =>
  callsOf(folder).filter(({ argv }) => argv[0] === "database" && argv[1] === command)

const analyzeWith = Effect.fnUntraced(function* (
  plan: object,
  snippets: ReadonlyArray<Snippet>,
  settings: Record<string, unknown> = {}
) {
  const folder = yield* installStandIn(plan)
  const answers = yield* CodeQl.use((codeQl) => codeQl.analyze(snippets)).pipe(
    Effect.provide(layerFor({ CODEQL_PATH: join(folder, "codeql"), PATH: "/usr/bin:/bin", ...settings })),
    Effect.provideService(References.MinimumLogLevel, "Error")
  )
  return { answers, folder }
})

const tags = (answers: ReadonlyArray<Analysis>) => answers.map(({ _tag }) => _tag)
const reasons = (answers: ReadonlyArray<Analysis>) =>
  answers.flatMap((answer) => (answer._tag === "NotAnalysed" ? [answer.reason] : []))

describe("CodeQl", () => {
  it.live("reads recorded results: rules, severities, CWEs, columns, in input order", () =>
    Effect.gen(function* () {
      const { answers, folder } = yield* analyzeWith({}, [
        clean("first"),
        snippet("uaf", "char use_after_free(char *p) {\n  free(p);\n  return *p;\n}"),
        snippet("cmd", "void command_injection(char **v) {\n  system(v[1]);\n}"),
        snippet("diff", "int unsigned_difference(unsigned a, unsigned b) { return a - b > 0; }"),
        snippet("uaf2", "char use_after_free(char *p) {\r\n  free(p);\r\n  return *p;\r\n}"),
        snippet("py", "import os\n", "python")
      ])
      assert.deepStrictEqual(
        answers.map(({ snippetId }) => snippetId),
        ["first", "uaf", "cmd", "diff", "uaf2", "py"]
      )
      assert.deepStrictEqual(tags(answers), ["Clean", "Alerts", "Alerts", "Alerts", "Alerts", "Clean"])
      assert.deepStrictEqual(answers[1], {
        _tag: "Alerts",
        snippetId: "uaf",
        tools: ["codeql"],
        findings: [
          {
            tool: "codeql",
            ruleId: "cpp/use-after-free",
            cwes: [cwe(416)],
            severity: "critical",
            message: "Memory may have been previously freed by call to free.",
            line: 3,
            column: 9
          }
        ]
      } satisfies Analysis)
      assert.isTrue(answers[2]?._tag === "Alerts" && answers[2].findings[0]?.column === 0)
      assert.deepStrictEqual(answers[2]?._tag === "Alerts" ? answers[2].findings[0]?.cwes : [], [
        "CWE-78",
        "CWE-88"
      ] as never)
      // No score: the level decides. No region: no line.
      assert.deepInclude(answers[3]?._tag === "Alerts" ? answers[3].findings[0] : {}, {
        severity: "medium",
        line: null,
        column: null
      })
      // Equal after normalising line ends: one copy in the database, two answers.
      assert.deepStrictEqual(answers[4], answers[1] && { ...answers[1], snippetId: "uaf2" })
      assert.strictEqual(databaseCalls(folder, "create").length, 2, "one database per language")
    }).pipe(Effect.scoped)
  )

  it.live("passes the documented arguments, a bare environment, and cleans up after itself", () =>
    Effect.gen(function* () {
      const before = readdirSync(tmpdir()).filter((name) => name.startsWith("srcode-codeql-"))
      const { folder } = yield* analyzeWith({}, [clean("a")], {
        CODEQL_RAM_MB: "4096",
        CODEQL_THREADS: "2",
        API_KEY: "x"
      })
      const [create] = databaseCalls(folder, "create")
      const [analyze] = databaseCalls(folder, "analyze")
      for (const argument of ["--language=c-cpp", "--build-mode=none", "--overwrite", "--threads=2", "--ram=4096"]) {
        assert.include(create?.argv ?? [], argument)
      }
      assert.strictEqual(analyze?.argv[3], "codeql/cpp-queries:codeql-suites/cpp-security-extended.qls")
      for (const argument of ["--format=sarifv2.1.0", "--no-download", "--max-paths=1", "--rerun"]) {
        assert.include(analyze?.argv ?? [], argument)
      }
      assert.deepStrictEqual(
        analyze?.env.filter((name) => !["PWD", "SHLVL", "_", "OLDPWD"].includes(name)),
        ["HOME", "LANG", "PATH"]
      )
      const after = readdirSync(tmpdir()).filter((name) => name.startsWith("srcode-codeql-"))
      assert.deepStrictEqual(after, before)
    }).pipe(Effect.scoped)
  )

  it.live("no alert without proof of extraction is not clean", () =>
    Effect.gen(function* () {
      const { answers } = yield* analyzeWith({}, [
        snippet("lost", "int lost_file(void) { return 0; }"),
        snippet("silent", "int silent_file(void) { return 0; }"),
        snippet("recovered", "int recovered_file(void) { return 0; }")
      ])
      assert.deepStrictEqual(tags(answers), ["NotAnalysed", "NotAnalysed", "Clean"])
      assert.match(reasons(answers)[0] ?? "", /catastrophic/)
      assert.match(reasons(answers)[1] ?? "", /does not list it/)
    }).pipe(Effect.scoped)
  )

  it.live("data flow through another snippet is dropped", () =>
    Effect.gen(function* () {
      const { answers } = yield* analyzeWith({}, [snippet("x", "int cross_talk(void) { return 0; }"), clean("other")])
      assert.deepStrictEqual(tags(answers), ["Clean", "Clean"])
    }).pipe(Effect.scoped)
  )

  it.live("respects the batch size", () =>
    Effect.gen(function* () {
      const { answers, folder } = yield* analyzeWith({}, ["a", "b", "c", "d", "e"].map(clean), { CODEQL_BATCH: "2" })
      assert.deepStrictEqual(tags(answers), Array(5).fill("Clean"))
      assert.strictEqual(databaseCalls(folder, "create").length, 3)
    }).pipe(Effect.scoped)
  )

  it.live("out of memory: halves until it fits, then on one thread", () =>
    Effect.gen(function* () {
      const { answers, folder } = yield* analyzeWith(
        { faults: [{ command: "analyze", exit: 99, moreThan: 2 }] },
        ["a", "b", "c", "d", "e", "f", "g"].map(clean)
      )
      assert.deepStrictEqual(tags(answers), Array(7).fill("Clean"))
      const threads = databaseCalls(folder, "analyze").map(({ argv }) => argv.find((a) => a.startsWith("--threads")))
      assert.deepStrictEqual(threads, ["--threads=0", ...Array(threads.length - 1).fill("--threads=1")])
    }).pipe(Effect.scoped)
  )

  it.live("killed by the kernel on one snippet: that one alone is not analysed", () =>
    Effect.gen(function* () {
      const { answers } = yield* analyzeWith(
        { faults: [{ command: "create", signal: "SIGKILL", containing: "poison" }] },
        [clean("a"), clean("b"), snippet("bad", "int poison(void) { return 1; }"), clean("c")]
      )
      assert.deepStrictEqual(tags(answers), ["Clean", "Clean", "NotAnalysed", "Clean"])
      assert.match(reasons(answers)[0] ?? "", /out of memory \(exit code 137\)/)
    }).pipe(Effect.scoped)
  )

  it.live("exit 32 and internal errors: split once, then not analysed with the reason", () =>
    Effect.gen(function* () {
      const none = yield* analyzeWith({ faults: [{ command: "create", exit: 32 }] }, ["a", "b", "c", "d"].map(clean))
      assert.deepStrictEqual(tags(none.answers), Array(4).fill("NotAnalysed"))
      assert.match(reasons(none.answers)[0] ?? "", /no source .*32/)
      assert.strictEqual(databaseCalls(none.folder, "create").length, 3)
      const bug = yield* analyzeWith(
        {
          faults: [{ command: "analyze", exit: 100, containing: "poison", message: "line one\nNullPointerException" }]
        },
        [snippet("bad", "int poison(void) { return 1; }"), clean("a"), clean("b"), clean("c")]
      )
      assert.deepStrictEqual(tags(bug.answers), ["NotAnalysed", "NotAnalysed", "Clean", "Clean"])
      assert.match(reasons(bug.answers)[0] ?? "", /code 100: NullPointerException/)
    }).pipe(Effect.scoped)
  )

  it.live("exit 33: alerts stay, absence of alerts proves nothing", () =>
    Effect.gen(function* () {
      const { answers } = yield* analyzeWith({ faults: [{ command: "analyze", exit: 33 }] }, [
        snippet("uaf", "char use_after_free(char *p) {\n free(p);\n return *p; }"),
        clean("a")
      ])
      assert.deepStrictEqual(tags(answers), ["Alerts", "NotAnalysed"])
      assert.match(reasons(answers)[0] ?? "", /queries timed out/)
    }).pipe(Effect.scoped)
  )

  it.live("truncated and missing results files are not clean", () =>
    Effect.gen(function* () {
      const cut = yield* analyzeWith({ faults: [{ command: "analyze", truncate: true }] }, [clean("a")])
      assert.match(reasons(cut.answers)[0] ?? "", /not complete SARIF/)
      const none = yield* analyzeWith({ faults: [{ command: "analyze", noOutput: true }] }, [clean("a")])
      assert.match(reasons(none.answers)[0] ?? "", /no results file/)
    }).pipe(Effect.scoped)
  )

  it.live("a command that hangs is killed at the wall clock with its children", () =>
    Effect.gen(function* () {
      const { answers, folder } = yield* analyzeWith({ faults: [{ command: "create", hang: true }] }, [clean("a")], {
        CODEQL_TIMEOUT_SECONDS: "1"
      })
      assert.match(reasons(answers)[0] ?? "", /longer than 1 s/)
      assert.deepStrictEqual(processesWith(folder), [])
    }).pipe(Effect.scoped)
  )

  it.live("interruption kills the command and removes the folder", () =>
    Effect.gen(function* () {
      const folder = yield* installStandIn({ faults: [{ command: "create", hang: true }] })
      const fiber = yield* CodeQl.use((codeQl) => codeQl.analyze([clean("a")])).pipe(
        Effect.provide(layerFor({ CODEQL_PATH: folder, PATH: "/usr/bin:/bin" })),
        Effect.forkChild
      )
      const creating = () => existsSync(join(folder, "calls.jsonl")) && databaseCalls(folder, "create").length > 0
      for (let i = 0; i < 500 && !creating(); i++) yield* Effect.sleep(10)
      assert.isNotEmpty(processesWith(folder))
      yield* Fiber.interrupt(fiber)
      assert.deepStrictEqual(processesWith(folder), [])
    }).pipe(Effect.scoped)
  )

  it.live("missing, misplaced, too old or broken installations say what to do", () =>
    Effect.gen(function* () {
      const attempt = (settings: Record<string, unknown>) =>
        CodeQl.use((codeQl) => codeQl.analyze([clean("a")])).pipe(Effect.flip, Effect.provide(layerFor(settings)))
      assert.match(
        (yield* attempt({ PATH: "/nonexistent" })).message,
        /codeql is not on PATH; install the CodeQL bundle/
      )
      assert.match((yield* attempt({ CODEQL_PATH: "/nonexistent/codeql" })).message, /CODEQL_PATH is \/nonexistent/)
      const old = yield* installStandIn({ version: "2.22.4" })
      assert.match((yield* attempt({ CODEQL_PATH: old })).message, /2\.22\.4 is too old .* 2\.23\.3/)
      const broken = yield* installStandIn({ versionText: "Error: no Java" })
      const error = yield* attempt({ CODEQL_PATH: broken })
      assert.match(error.message, /codeql version --format=json gave an answer that is not the expected JSON/)
      assert.isFalse(error.message.includes("\n"))
      const status = yield* CodeQl.use((codeQl) => codeQl.status).pipe(Effect.provide(layerFor({ CODEQL_PATH: old })))
      assert.isFalse(status.found)
    }).pipe(Effect.scoped)
  )

  it.live("is found on PATH, describes itself, lists its queries, and stands behind the Analyzer port", () =>
    Effect.gen(function* () {
      const folder = yield* installStandIn({ version: "2.25.5", languages: { cpp: [] } })
      const layer = layerFor({ PATH: `/nonexistent:${folder}:/usr/bin`, CODEQL_PROFILE: "all-security" })
      yield* Effect.gen(function* () {
        const analyzer = yield* Analyzer
        assert.deepStrictEqual(yield* analyzer.describe, [{ name: "codeql", version: "2.25.5", found: true }])
        const answers = yield* analyzer.analyze([clean("a"), snippet("p", "x = 1", "python")])
        assert.deepStrictEqual(tags(answers), ["Clean", "NotAnalysed"])
        const codeQl = yield* CodeQl
        assert.match((yield* codeQl.queries("cpp"))[0] ?? "", /UseAfterFree\.ql$/)
        assert.deepStrictEqual(yield* codeQl.analyze([]), [])
      }).pipe(Effect.provide(Layer.provideMerge(Analyzer.layerCodeQl, layer)))
    }).pipe(Effect.scoped)
  )
})

/** Command lines of live processes which mention `text`. */
const processesWith = (text: string): ReadonlyArray<string> =>
  readdirSync("/proc").flatMap((entry) => {
    try {
      const line = /^\d+$/.test(entry) ? readFileSync(`/proc/${entry}/cmdline`, "utf8") : ""
      return line.includes(text) ? [line] : []
    } catch {
      return []
    }
  })
