import * as fs from "node:fs"
import * as os from "node:os"
import * as nodePath from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { cwe } from "@srcode/domain"
import { Effect, Stream } from "effect"
import {
  blankLiterals,
  contentHash,
  functionName,
  guessLanguage,
  readPrimeVul,
  readPrimeVulRows,
  rowCwes,
  type Selection,
  type SelectOptions,
  Syntax
} from "../src/index.ts"

const temporary = Effect.acquireRelease(
  Effect.sync(() => fs.mkdtempSync(nodePath.join(os.tmpdir(), "srcode-dataset-"))),
  (dir) => Effect.sync(() => fs.rmSync(dir, { recursive: true, force: true }))
)
const row = (fields: Record<string, unknown>) => ({
  idx: 1,
  project: "p",
  commit_id: "c1",
  target: 1,
  func: "int f(int *a) { return a[9]; }",
  func_hash: 3e38,
  cwe: ["CWE-787"],
  ...fields
})
const select = (rows: ReadonlyArray<unknown>, options: SelectOptions = {}) =>
  Effect.gen(function* () {
    const file = nodePath.join(yield* temporary, "rows.jsonl")
    fs.writeFileSync(file, rows.map((one) => `${JSON.stringify(one)}\n`).join(""))
    return yield* Stream.runCollect(readPrimeVul(file, options))
  })
const tags = (selections: ReadonlyArray<Selection>) =>
  selections.map((one) => (one._tag === "Kept" ? `kept:${one.sample.code}` : one.reason))

describe("pairs", () => {
  it.live("are two consecutive rows of one commit and one function", () =>
    Effect.gen(function* () {
      const a = "int f(int i) { return x[i]; }"
      const fixed = "int f(int i) { return i < 9 ? x[i] : 0; }"
      const other = "int g(int i) { return 1; }"
      const twins = (rows: ReadonlyArray<unknown>) =>
        Effect.map(select(rows), (all) => all.map((one) => (one._tag === "Kept" ? one.sample.twin : one.reason)))
      assert.deepStrictEqual(yield* twins([row({ func: a }), row({ func: fixed, target: 0 })]), [fixed])
      assert.deepStrictEqual(yield* twins([row({ func: a }), row({ func: other, target: 0 })]), [null])
      assert.deepStrictEqual(yield* twins([row({ func: a }), row({ func: fixed, target: 0, commit_id: "c2" })]), [null])
      assert.deepStrictEqual(yield* twins([row({ func: fixed, target: 0 }), row({ func: a })]), [null])
      assert.deepStrictEqual(yield* twins([row({ func: a })]), [null])
      assert.deepStrictEqual(
        yield* twins([row({ func: a }), row({ func: other }), row({ func: "int g(int i) {return 2;}", target: 0 })]),
        [null, "int g(int i) {return 2;}"]
      )
      assert.deepStrictEqual(
        yield* twins([row({ func: a }), row({ func: "int  f(int i){ return x[i]; }\n", target: 0 })]),
        ["unchanged-twin"]
      )
    })
  )
  it.live("give both sides when all are asked for", () =>
    Effect.gen(function* () {
      const all = yield* select([row({ func: "int f() { a; }" }), row({ func: "int f() { b; }", target: 0 })], {
        include: "all"
      })
      assert.deepStrictEqual(
        all.map((one) => one._tag === "Kept" && [one.line, one.sample.vulnerable, one.sample.twin]),
        [
          [1, true, "int f() { b; }"],
          [2, false, null]
        ]
      )
    })
  )
})

describe("selection", () => {
  it.live("says why a row is dropped", () =>
    Effect.gen(function* () {
      const selections = yield* select(
        [
          row({ func: "int f() { a; }" }),
          row({ func: "int  f()\n{a;}", commit_id: "c9" }),
          row({ func: "int g() { a; }", cwe: ["CWE-89"] }),
          row({ func: "int h() { a; }", cwe: [] }),
          row({ func: "int i() { a; }", cwe: "NVD-CWE-Other" }),
          row({ func: "  " }),
          row({ func: `int j() { ${"x;".repeat(40)} }` }),
          row({ func: "int k() { b; }", target: 0 }),
          row({ func: "int k() { b; }" }),
          row({ func: "int l() { a; }", cwe: ["CWE-89", "CWE-416", "CWE-0416"] })
        ],
        { maxLength: 60 }
      )
      assert.deepStrictEqual(tags(selections), [
        "kept:int f() { a; }",
        "duplicate",
        "cwe-not-selected",
        "no-cwe",
        "no-cwe",
        "empty",
        "too-long",
        "contradiction",
        "kept:int l() { a; }"
      ])
      const last = selections.at(-1)
      assert.deepStrictEqual(last?._tag === "Kept" && last.sample.cwes, [cwe(416), cwe(89)])
    })
  )
  it("reads the spellings of classes", () => {
    for (const given of [["CWE-787"], "CWE-787", '["CWE-787"]', ["cwe-0787", "CWE-787", null], "787"])
      assert.deepStrictEqual(rowCwes(given), [cwe(787)])
    for (const given of [null, undefined, [], "", ["NVD-CWE-noinfo"], [""]]) assert.deepStrictEqual(rowCwes(given), [])
    assert.deepStrictEqual(rowCwes("['CWE-125', 'CWE-787']"), [cwe(125), cwe(787)])
  })
  it("the identity ignores whitespace and nothing else", () => {
    assert.strictEqual(contentHash("int f ( ) {\n\treturn 1 ; }"), contentHash("int f(){return 1;}"))
    assert.notStrictEqual(contentHash("int f(){return 1;}"), contentHash("int f(){return 2;}"))
    assert.match(contentHash(""), /^e3b0c44298fc1c14/)
  })
})

describe("bad input", () => {
  const good = `${JSON.stringify(row({ func: "int good() { }" }))}\n`
  const cases: ReadonlyArray<readonly [string, string | Uint8Array, string, number | null, RegExp]> = [
    ["empty file", "", "Empty", null, /no rows/],
    ["blank lines only", "\n \n", "Empty", null, /no rows/],
    ["not JSON", `${good}{"idx":\n`, "Malformed", 2, /rows\.jsonl:2: the line is not JSON/],
    ["a list", `${good}\n[1]\n`, "Malformed", 3, /rows\.jsonl:3: not a PrimeVul row/],
    [
      "missing field",
      `${good}${JSON.stringify({ ...row({}), func: undefined })}\n`,
      "Malformed",
      2,
      /Missing key at \["func"\]/
    ],
    ["wrong type", `${good}${JSON.stringify(row({ target: "yes" }))}\n`, "Malformed", 2, /target/],
    ["not UTF-8", Buffer.concat([Buffer.from(good), Buffer.from([0x22, 0xff, 0x22, 10])]), "Malformed", 2, /UTF-8/],
    ["cut off", `${good}${good.slice(0, 40)}`, "Malformed", 2, /not JSON/],
    ["UTF-16", Buffer.from(good, "utf16le"), "Malformed", 1, /line is not/],
    [
      "a gigantic line",
      `${good}${JSON.stringify(row({ func: "x".repeat(300_000) }))}\n`,
      "Malformed",
      2,
      /longer than 100000 bytes/
    ]
  ]
  it.live.each(cases)("%s", ([, content, reason, line, message]) =>
    Effect.gen(function* () {
      const file = nodePath.join(yield* temporary, "rows.jsonl")
      fs.writeFileSync(file, content)
      const seen: Array<number> = []
      const error = yield* readPrimeVulRows(file, { maxLineBytes: 100_000 }).pipe(
        Stream.runForEach((one) => Effect.sync(() => seen.push(one.line))),
        Effect.flip
      )
      assert.deepStrictEqual([error.reason, error.line], [reason, line])
      assert.match(error.message, message)
      assert.include(error.message, file)
      assert.notInclude(error.message, "\n")
      assert.deepStrictEqual(seen, line !== null && line > 1 ? [1] : [])
    })
  )
  it.live("a file that is not there, a directory", () =>
    Effect.gen(function* () {
      const dir = yield* temporary
      const missing = yield* Effect.flip(Stream.runDrain(readPrimeVul(nodePath.join(dir, "no.jsonl"))))
      assert.strictEqual(missing.reason, "Missing")
      assert.match(missing.message, /does not exist; check the path/)
      assert.strictEqual((yield* Effect.flip(Stream.runDrain(readPrimeVul(dir)))).reason, "Unreadable")
    })
  )
  it.live("a file of a quarter of a GiB in one line costs no memory", () =>
    Effect.gen(function* () {
      const file = nodePath.join(yield* temporary, "rows.jsonl")
      // A sparse file: NUL bytes without a line end.
      fs.writeFileSync(file, "")
      fs.truncateSync(file, 2 ** 28)
      const before = process.memoryUsage().rss
      const error = yield* Effect.flip(Stream.runDrain(readPrimeVul(file, { maxLineBytes: 2 ** 20 })))
      assert.match(error.message, /:1: the line is longer than 1048576 bytes/)
      assert.isBelow(process.memoryUsage().rss - before, 150 * 2 ** 20)
    })
  )
})

describe("looking at code without a grammar", () => {
  it("guesses the language", () => {
    const cases: ReadonlyArray<readonly [string, string | null, string]> = [
      ["int f(void) { return 0; }", null, "c"],
      ["int f(void) { return 0; }", "a/b.cc", "cpp"],
      ["void A::b() { }", "x.h", "cpp"],
      ["void A::b() { }", "x.c", "c"],
      ["int f() { return std::max(1, 2); }", null, "cpp"],
      [`int f() { puts("std::max"); /* A::b */ return 0; } // new X(`, null, "c"],
      ["int f() { int new = 1; if (a) delete(a); }", null, "c"],
      ["static int g(const Foo &x) { }", null, "cpp"],
      ["def f(a, b):\n    return a[b]\n", null, "python"],
      ["@wraps(f)\nasync def f(a) -> int:\n  pass\n", null, "python"],
      ["x = 1", "a.py", "python"]
    ]
    for (const [code, name, expected] of cases) assert.strictEqual(guessLanguage(code, name), expected, code)
  })
  it("blanks comments and literals and keeps every position", () => {
    const code = `a("x\\"y//" /* b\n " */, 'c', '"') // d "e\nf`
    const blank = blankLiterals(code)
    assert.strictEqual(blank.length, code.length)
    assert.strictEqual(blank, `a("      "     \n     , ' ', ' ')        \nf`)
  })
  it("names functions", () => {
    assert.strictEqual(functionName("/* f() */ static int\nfoo (int a)\n{ bar(1); }"), "foo")
    assert.strictEqual(functionName("void A :: B::run(int x) const {"), "A::B::run")
    assert.strictEqual(functionName("A::~A() {"), "A::~A")
    assert.strictEqual(functionName("PHP_FUNCTION(imagecopy)\n{"), "PHP_FUNCTION(imagecopy)")
    assert.strictEqual(functionName("#define X(y) y\nint z(void) {"), "z")
    assert.strictEqual(functionName("nothing"), "")
  })
})

const real = nodePath.resolve(import.meta.dirname, "../../../../shared/data/primevul/primevul_paired_dev.jsonl")
describe.skipIf(!fs.existsSync(real))(
  "657 real pairs (skipped where ../shared/data is not beside the repository)",
  () => {
    it.live("are read whole, and every row is accounted for", () =>
      Effect.gen(function* () {
        const rows = yield* Stream.runCollect(readPrimeVulRows(real))
        assert.strictEqual(rows.length, 1314)
        const selections = yield* Stream.runCollect(readPrimeVul(real))
        assert.strictEqual(selections.length, 657)
        const kept = selections.flatMap((one) => (one._tag === "Kept" ? [one.sample] : []))
        const wanted = rows.filter(
          ({ row }) =>
            row.target === 1 &&
            row.func.length <= 32_768 &&
            rowCwes(row.cwe).some((id) =>
              [787, 125, 119, 120, 416, 415, 476, 190, 401, 369, 22, 78, 134, 457].map(cwe).includes(id)
            )
        )
        assert.strictEqual(kept.length, wanted.length)
        assert.isAbove(kept.filter((sample) => sample.twin !== null).length, kept.length * 0.95)
        assert.strictEqual(new Set(kept.map((sample) => sample.id)).size, kept.length)
      })
    )
    it.live("are nearly all recognised as one function, most without a syntax error", () =>
      Effect.gen(function* () {
        const syntax = yield* Syntax
        const kept = (yield* Stream.runCollect(readPrimeVul(real))).flatMap((one) =>
          one._tag === "Kept" ? [one.sample] : []
        )
        const parsed = yield* Effect.forEach(kept, (sample) => syntax.parse(sample.language, sample.code))
        assert.isAbove(parsed.filter((one) => one.headers.length > 0).length / kept.length, 0.97)
        assert.isAbove(parsed.filter((one) => one.errors === 0).length / kept.length, 0.75)
        // What was guessed to be C++ is no better read as C.
        for (const [index, sample] of kept.entries()) {
          if (sample.language !== "cpp") continue
          assert.isAtMost(parsed[index]?.errors ?? 0, (yield* syntax.parse("c", sample.code)).errors)
        }
      }).pipe(Effect.provide(Syntax.layer))
    )
  }
)
