/** The panel with the compilers and analyzers of this machine. Without them (or bubblewrap) skipped, with the reason. */
import { assert, describe, it } from "@effect/vitest"
import { type Analysis, cwe, cweFamily, type Snippet } from "@srcode/domain"
import { Sandbox, SandboxError, SandboxUnavailable } from "@srcode/sandbox"
import { Effect, Layer } from "effect"
import { Analyzer } from "../src/index.ts"

const panel = Analyzer.layerPanel.pipe(Layer.provide(Sandbox.layer))
const tools = await Effect.runPromise(
  Analyzer.use((analyzer) => analyzer.describe).pipe(Effect.provide(panel), Effect.orDie)
)
const missing = tools.filter(({ found }) => !found).map(({ name }) => name)
const why = missing.length === 0 ? "" : ` (skipped: not usable here: ${missing.join(", ")})`

const analyze = (snippets: ReadonlyArray<Snippet>) => Analyzer.use((analyzer) => analyzer.analyze(snippets))
const c = (id: string, code: string): Snippet => ({ id, language: "c", code })
const one = (code: string, language: Snippet["language"] = "c") =>
  analyze([{ id: "one", language, code }]).pipe(Effect.map(([answer]) => answer))
const families = (answer: Analysis | undefined): ReadonlyArray<string> =>
  answer?._tag === "Alerts" ? [...new Set(answer.findings.flatMap(({ cwes }) => cwes.map(cweFamily)))] : []

/** Each weakness with its repaired twin: the panel must tell them apart. */
const pairs: ReadonlyArray<readonly [string, number, string, string]> = [
  [
    "double free on an error path",
    415,
    `#include <stdlib.h>
int f(int n) { char *p = malloc(8); if (!p) return -1; if (n > 3) { free(p); goto out; } p[0] = 1; out: free(p); return 0; }`,
    `#include <stdlib.h>
int f(int n) { char *p = malloc(8); if (!p) return -1; if (n > 3) { goto out; } p[0] = 1; out: free(p); return 0; }`
  ],
  [
    "use after free",
    416,
    "#include <stdlib.h>\nint f(void) { int *p = malloc(4); if (!p) return 1; *p = 3; free(p); return *p; }",
    "#include <stdlib.h>\nint f(void) { int *p = malloc(4); if (!p) return 1; *p = 3; int r = *p; free(p); return r; }"
  ],
  [
    "malloc unchecked",
    690,
    "#include <stdlib.h>\nvoid g(char *);\nvoid f(void) { char *p = malloc(8); p[0] = 'x'; g(p); free(p); }",
    "#include <stdlib.h>\nvoid g(char *);\nvoid f(void) { char *p = malloc(8); if (!p) return; p[0] = 'x'; g(p); free(p); }"
  ],
  [
    "leak on an error path",
    401,
    "#include <stdlib.h>\nint f(int n) { char *p = malloc(8); if (!p) return 1; if (n < 0) return -1; p[0] = 1; free(p); return 0; }",
    "#include <stdlib.h>\nint f(int n) { char *p = malloc(8); if (!p) return 1; if (n < 0) { free(p); return -1; } p[0] = 1; free(p); return 0; }"
  ],
  [
    "uninitialised",
    457,
    "int f(int n) { int x; if (n > 0) x = 1; return x; }",
    "int f(int n) { int x = 0; if (n > 0) x = 1; return x; }"
  ],
  [
    "read past the end",
    125,
    "int f(void) { int a[4] = {1, 2, 3, 4}, s = 0; for (int i = 0; i <= 4; i++) s += a[i]; return s; }",
    "int f(void) { int a[4] = {1, 2, 3, 4}, s = 0; for (int i = 0; i < 4; i++) s += a[i]; return s; }"
  ],
  [
    "format string",
    134,
    "#include <stdio.h>\nvoid f(const char *s) { printf(s); }",
    '#include <stdio.h>\nvoid f(const char *s) { printf("%s", s); }'
  ],
  [
    "no room for the terminator",
    193,
    '#include <stdlib.h>\n#include <string.h>\nchar *f(void) { char *p = malloc(3); if (p) strcpy(p, "abc"); return p; }',
    '#include <stdlib.h>\n#include <string.h>\nchar *f(void) { char *p = malloc(4); if (p) memcpy(p, "abc", 4); return p; }'
  ],
  ["division by zero", 369, "int f(int n) { int d = 0; return n / d; }", "int f(int n) { int d = 2; return n / d; }"],
  ["address of a local", 562, "int *f(void) { int x = 1; return &x; }", "int *f(void) { static int x = 1; return &x; }"]
]

describe.skipIf(missing.length > 0)(`panel${why}`, () => {
  it.live.each(pairs.map(([name, number, bad, good]) => ({ name, number, bad, good })))("tells apart: $name", (pair) =>
    Effect.gen(function* () {
      const [bad, good] = yield* analyze([c("bad", pair.bad), c("good", pair.good)])
      assert.include(families(bad), cweFamily(cwe(pair.number)), JSON.stringify(bad))
      assert.deepStrictEqual([good?._tag, families(good)], ["Clean", []])
      assert.deepStrictEqual(good?._tag === "Clean" ? good.tools : [], [
        "gcc-analyzer",
        "gcc-warnings",
        "clang-analyzer",
        "cppcheck"
      ])
    }).pipe(Effect.provide(panel))
  )

  it.live("merges what several tools say about one flaw, with true lines and columns", () =>
    Effect.gen(function* () {
      const code = `#include <stdlib.h>\nvoid f(void) {\n  const char *e = "é😀"; char *p = malloc(2); free(p); free(p); (void)e;\n}`
      const answer = yield* one(code)
      const frees = answer?._tag === "Alerts" ? answer.findings.filter(({ cwes }) => cwes.includes(cwe(415))) : []
      assert.strictEqual(frees.length, 1)
      assert.include(frees[0]?.tool, "gcc-analyzer")
      assert.include(frees[0]?.tool, "clang-analyzer")
      assert.strictEqual(frees[0]?.severity, "critical")
      assert.strictEqual(frees[0]?.line, 3)
      assert.isTrue(
        code
          .split("\n")[2]
          ?.slice(frees[0]?.column ?? 0)
          .startsWith("free(p); (void)")
      )
    }).pipe(Effect.provide(panel))
  )

  it.live("tricks against analyzers do not work", () =>
    Effect.gen(function* () {
      const hidden = (before: string, after: string) => `#include <stdlib.h>
${before}
void f(char *p) { free(p); /* NOLINT */ // cppcheck-suppress doubleFree
  free(p); }
${after}`
      const answers = yield* analyze([
        c("pragma", hidden('#pragma GCC diagnostic ignored "-Wanalyzer-double-free"', "")),
        c("system", hidden("#pragma GCC system_header", "")),
        c("line", hidden('#line 1 "/usr/include/stdlib.h" 3', "")),
        c("marker", hidden('# 1 "/usr/include/stdlib.h" 1 3', "")),
        c("macro", hidden("#ifndef __clang_analyzer__", "#endif"))
      ])
      for (const answer of answers) assert.include(families(answer), "memory-lifetime", answer.snippetId)
    }).pipe(Effect.provide(panel))
  )

  it.live("what is no code is not analysed, never clean", () =>
    Effect.gen(function* () {
      const answers = yield* analyze([
        c("empty", ""),
        c("comment", "/* I cannot help with that. */"),
        c("prose", "Sure! Here is the function you asked for."),
        c("truncated", "#include <stdio.h>\nint f(int n) { if (n > 3) { return"),
        c("markdown", "```c\nint f(void) { return 0; }\n```"),
        c("garbage", "int f(void) { return 0; } ) ] } @@ ((( ' \" \u0000 ???"),
        c("declaration", "int f(void);"),
        { id: "python", language: "python", code: "print(1)" }
      ])
      for (const answer of answers) assert.strictEqual(answer._tag, "NotAnalysed", answer.snippetId)
    }).pipe(Effect.provide(panel))
  )

  it.live("a function without its headers gets the common ones; one without its types is left to cppcheck", () =>
    Effect.gen(function* () {
      const [headers, fragment] = yield* analyze([
        c("headers", 'void f(size_t n) { char *p = malloc(n); memset(p, 0, n); printf("%s", p); free(p); }'),
        c(
          "fragment",
          "int f(struct sk_buff *skb, u32 n) { int i; u32 x; for (i = 0; i < 3; i++) skb->data[i] = n; return x; }"
        )
      ])
      assert.deepInclude(headers, { _tag: "Alerts" })
      assert.include(families(headers), "null-pointer")
      assert.deepStrictEqual(fragment?._tag === "Alerts" ? fragment.tools : [], ["cppcheck"])
      assert.include(families(fragment), "uninitialised")
    }).pipe(Effect.provide(panel))
  )

  it.live("fragments can be refused", () =>
    Effect.gen(function* () {
      const answer = yield* one("int f(u33 n) { return n; }")
      assert.strictEqual(answer?._tag, "NotAnalysed")
      assert.match(answer?._tag === "NotAnalysed" ? answer.reason : "", /does not compile: 1: unknown type name .u33/)
    }).pipe(Effect.provide(Analyzer.layerPanelWith({ fragments: "refuse" }).pipe(Layer.provide(Sandbox.layer))))
  )

  it.live("C++ is analysed as C++", () =>
    Effect.gen(function* () {
      const bad = yield* one("int f() { int *p = new int[4]; delete[] p; return p[0]; }", "cpp")
      assert.include(families(bad), "memory-lifetime")
      const good = yield* one("#include <vector>\nint f() { std::vector<int> v(4); return v[0]; }", "cpp")
      assert.strictEqual(good?._tag, "Clean")
    }).pipe(Effect.provide(panel))
  )

  it.live("a compile-time bomb costs its own snippet only, and order is kept", () =>
    Effect.gen(function* () {
      const bomb = `#define A(x) x x x x x x x x x x
#define B(x) A(A(A(x)))
int f(void) { int y = 0; B(B(B(y++;))) return y; }`
      const answers = yield* analyze([
        c("a", "int f(void) { return 0; }"),
        c("bomb", bomb),
        c("z", "int g(void) { return 0; }")
      ])
      assert.deepStrictEqual(
        answers.map(({ snippetId, _tag }) => [snippetId, snippetId === "bomb" ? "-" : _tag]),
        [
          ["a", "Clean"],
          ["bomb", "-"],
          ["z", "Clean"]
        ]
      )
      assert.notStrictEqual(answers[1]?._tag, "Clean")
    }).pipe(
      Effect.provide(
        Analyzer.layerPanelWith({ toolSeconds: 1, fragments: "refuse" }).pipe(Layer.provide(Sandbox.layer))
      )
    )
  )
})

describe("without its tools", () => {
  it.live("no sandbox: refuses with what to install, and still describes itself", () =>
    Effect.gen(function* () {
      const analyzer = yield* Analyzer
      const error = yield* Effect.flip(analyzer.analyze([c("a", "int f(void) { return 0; }")]))
      assert.strictEqual(error.message, "no analyzer: bubblewrap is missing; install it")
      assert.isTrue((yield* analyzer.describe).every(({ found }) => !found))
      assert.deepStrictEqual(yield* analyzer.analyze([]), [])
    }).pipe(
      Effect.provide(
        Analyzer.layerPanel.pipe(
          Layer.provide(
            Sandbox.layerTest(() =>
              Effect.fail(
                new SandboxError({
                  reason: new SandboxUnavailable({ detail: "bubblewrap is missing", install: "install it" })
                })
              )
            )
          )
        )
      )
    )
  )

  it.live("a sandbox without compilers: says which are wanted", () =>
    Effect.gen(function* () {
      const error = yield* Effect.flip(analyze([c("a", "int f(void) { return 0; }")]))
      assert.match(error.message, /none of gcc, clang and cppcheck .*apt install/)
    }).pipe(Effect.provide(Analyzer.layerPanel.pipe(Layer.provide(Sandbox.layerTest(() => ({ stdout: "" }))))))
  )

  it.live("tools that crash, time out or answer nonsense give no answer, not a clean one", () =>
    Effect.gen(function* () {
      const answer = yield* one("int f(void) { return 0; }")
      assert.strictEqual(answer?._tag, "NotAnalysed")
      const reason = answer?._tag === "NotAnalysed" ? answer.reason : ""
      for (const part of [
        /gcc-analyzer took too long/,
        /gcc-warnings ended with code 1/,
        /clang-analyzer/,
        /cppcheck/
      ]) {
        assert.match(reason, part)
      }
    }).pipe(
      Effect.provide(
        Analyzer.layerPanel.pipe(
          Layer.provide(
            Sandbox.layerTest((job) =>
              "find.sh" in job.files
                ? { stdout: "gcc\tgcc 12.2.0\tjson\nclang-14\tclang 14\tcore\ncppcheck\tCppcheck 2.10\t-\n" }
                : {
                    stdout: `compile 1 \ngcc-analyzer 137 \ngcc-warnings 1 \nclang-analyzer 0 ${btoa('{"runs": [')}\ncppcheck 0 ${btoa("<results>")}\n`
                  }
            )
          )
        )
      )
    )
  )
})

describe("layerTest", () => {
  it.effect("answers by the function", () =>
    Effect.gen(function* () {
      const answers = yield* analyze([c("x", ""), c("y", "")])
      assert.deepStrictEqual(
        answers.map(({ snippetId }) => snippetId),
        ["x", "y"]
      )
    }).pipe(Effect.provide(Analyzer.layerTest(({ id }) => ({ _tag: "NotAnalysed", snippetId: id, reason: "test" }))))
  )
})
