import { spawnSync } from "node:child_process"
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { findTampering, Sandbox, stripAnalyzerTricks, type TamperingKind } from "../src/index.ts"

const kinds = (code: string) => findTampering(code).map(({ kind }) => kind)

const tricks: ReadonlyArray<readonly [string, TamperingKind]> = [
  ['const char *__asan_default_options(void) { return "exitcode=0"; }', "sanitizer-hook"],
  ["void __sanitizer_set_death_callback(void (*f)(void));", "sanitizer-hook"],
  ["const char *__as\\\nan_default_options(void);", "sanitizer-hook"],
  ['__attribute__((no_sanitize("address"))) int f(void);', "no-sanitize"],
  ["__attribute__((__no_sanitize_address__)) int f(void);", "no-sanitize"],
  ["#define QUIET no_sanitize_undefined\n", "no-sanitize"],
  ['[[clang::no_sanitize("address")]] int f(void);', "no-sanitize"],
  ["__attribute__((constructor)) static void go(void) { _exit(0); }", "constructor"],
  ["__attribute__((unused, __destructor__(101))) void go(void);", "constructor"],
  ['void *p __attribute__((section(".init_array"))) = 0;', "constructor"],
  ['__asm__(".incbin \\"/etc/passwd\\"");', "assembly"],
  ['void f(void) { asm volatile("nop"); }', "assembly"],
  ['#pragma GCC diagnostic ignored "-Wanalyzer-double-free"', "diagnostic-pragma"],
  ["#  /* x */ pragma clang \\\n diagnostic push", "diagnostic-pragma"],
  ["%: pragma GCC system_header", "diagnostic-pragma"],
  ['_Pragma("GCC diagnostic ignored \\"-Wall\\"")', "diagnostic-pragma"],
  ['#line 1 "/usr/include/x.h"', "line-directive"],
  ['# 1 "/usr/include/x.h" 1 3', "line-directive"],
  ["#ifdef __clang_analyzer__\n#endif", "analyzer-macro"],
  ["#if __has_feature(address_sanitizer)\n#endif", "analyzer-macro"],
  ["#if defined(__SANITIZE_ADDRESS__)\n#endif", "analyzer-macro"],
  ["int x; // NOLINT", "suppression-comment"],
  ["/* flawfinder: ignore */ int x;", "suppression-comment"],
  ["int x; // cppcheck-suppress uninitvar", "suppression-comment"],
  ["int x; /* codeql[cpp/use-after-free] */", "suppression-comment"],
  ["void free(void *p) { (void)p; }", "libc-override"],
  ["#define free(p) ((void)0)", "libc-override"],
  ["#define GLUE(a, b) a##b", "token-paste"],
  ['#include "/etc/passwd"', "host-include"],
  ['#include "../../secret.h"', "host-include"],
  ["??=ifdef X", "spelling"],
  ['const char *s = R"(")" /* ")";', "spelling"]
]

const innocent = [
  "#include <stdio.h>\n#include <sys/types.h>\n#pragma once\nint main(void) { free(malloc(4)); return 0; }",
  'const char *s = "__asan_default_options // NOLINT #pragma GCC diagnostic";',
  "char quote = '\"'; /* an ordinary comment about constructors and malloc(x) { } */ int asmx;",
  "struct s { void (*free)(void *); }; void g(struct s *t) { t->free(0); if (t) { exit(1); } }",
  "__attribute__((unused)) static int constructor_count; int x = a[[0]];"
]

describe("findTampering", () => {
  it.each(tricks)("%s", (code, kind) => {
    const found = findTampering(`int before;\n${code}\nint after;\n`)
    assert.deepStrictEqual([...new Set(found.map((f) => f.kind))], [kind])
    assert.strictEqual(found[0]?.line, 2)
  })

  it.each(innocent.map((code) => [code]))("leaves alone: %s", (code) => {
    assert.deepStrictEqual(kinds(code), [])
  })

  it("reads Python's comments and not its strings", () => {
    const code = 's = "# nosec"\nt = """\n# noqa\n"""\nimport os  # nosec\n'
    const stripped = stripAnalyzerTricks(code, "python")
    assert.deepStrictEqual(stripped.found, [{ kind: "suppression-comment", text: "# nosec", line: 5, removed: true }])
    assert.strictEqual(stripped.code, `${code.slice(0, -8)}${" ".repeat(7)}\n`)
  })
})

describe("stripAnalyzerTricks", () => {
  it("keeps length and lines for any text, reports nothing removable twice, and is stable", () => {
    const pieces = [
      ...tricks.map(([code]) => code),
      ...innocent,
      "/*",
      "*/",
      "//",
      '"',
      "'",
      "\\\n",
      "{",
      "}",
      "((",
      "é😀",
      "\r\n",
      'R"x(',
      "[[",
      "_Pragma(",
      "__attribute__((",
      "#",
      "# pragma GCC"
    ]
    let state = 12345
    const next = (n: number) => (state = (Math.imul(state, 1103515245) + 12345) >>> 0) % n
    for (let round = 0; round < 3000; round++) {
      const code = Array.from({ length: 1 + next(6) }, () => pieces[next(pieces.length)]).join(next(2) ? "\n" : " ")
      const once = stripAnalyzerTricks(code)
      assert.strictEqual(once.code.length, code.length)
      assert.strictEqual(once.code.replace(/[^\n]/g, ""), code.replace(/[^\n]/g, ""))
      assert.strictEqual(stripAnalyzerTricks(once.code).code, once.code, JSON.stringify(code))
    }
  })

  it("a quarter of a million hostile characters take no more than seconds", () => {
    const nested = `${"__attribute__((".repeat(15_000)}${"))".repeat(15_000)}`
    for (const piece of ["/*", "__attribute__((", "#include <", "'", "[[a ", "??=\n", "asm\n", nested]) {
      const code = piece.repeat(Math.ceil(250_000 / piece.length))
      const start = performance.now()
      stripAnalyzerTricks(code)
      assert.isBelow(performance.now() - start, 5000, piece.slice(0, 20))
    }
  })

  const sandboxed = Effect.runSync(Sandbox.use((s) => Effect.succeed(s)).pipe(Effect.provide(Sandbox.layer)))
  const hasGcc = spawnSync("gcc", ["--version"]).status === 0
  it.live.skipIf(!hasGcc)(
    "a hidden double free shows again after stripping (gcc -fanalyzer; skipped without gcc)",
    () =>
      Effect.gen(function* () {
        if (!(yield* sandboxed.status).available) return
        const code = `#include <stdlib.h>
#pragma GCC diagnostic ignored "-Wanalyzer-double-free"
void f(void) {
  char *p = malloc(4);
  if (!p) return;
  free(p);
#ifndef __clang_analyzer__
  free(p);
#endif
}
`
        const alerts = (text: string) =>
          sandboxed
            .run({ files: { "a.c": text }, argv: ["/usr/bin/gcc", "-fanalyzer", "-c", "-o", "/tmp/a.o", "/job/a.c"] })
            .pipe(Effect.map((result) => (result.stderr.match(/-Wanalyzer-double-free/g) ?? []).length))
        assert.strictEqual(yield* alerts(code), 0)
        assert.isAbove(yield* alerts(stripAnalyzerTricks(code).code), 0)
      })
  )
})
