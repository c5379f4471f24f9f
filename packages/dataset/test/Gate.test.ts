import { assert, describe, it, layer } from "@effect/vitest"
import { type Analysis, cwe, type Finding, type Language, type Severity } from "@srcode/domain"
import { Effect } from "effect"
import {
  type GateInput,
  gate,
  lineDiff,
  looseHeader,
  makeRandom,
  newFindings,
  Syntax,
  tokenSimilarity
} from "../src/index.ts"

const clean: Analysis = { _tag: "Clean", snippetId: "s", tools: ["t"] }
const notAnalysed: Analysis = { _tag: "NotAnalysed", snippetId: "s", reason: "does not compile" }
const finding = (ruleId: string, severity: Severity, ids: ReadonlyArray<number> = [], line = 1): Finding => ({
  tool: "t",
  ruleId,
  cwes: ids.map(cwe),
  severity,
  message: "m",
  line,
  column: null
})
const alerts = (...findings: ReadonlyArray<Finding>): Analysis => ({
  _tag: "Alerts",
  snippetId: "s",
  findings,
  tools: ["t"]
})

layer(Syntax.layer)("the gate", (it) => {
  const original = "int get(int *a, int n, int i) {\n  return a[i];\n}\n"
  const repaired = "int get(int *a, int n, int i) {\n  if (i < 0 || i >= n) return -1;\n  return a[i];\n}\n"
  const run = (patched: string, more: Partial<GateInput> = {}, before = original, language: Language = "c") =>
    Effect.gen(function* () {
      const syntax = yield* Syntax
      const input: GateInput = {
        language,
        cwe: cwe(125),
        original: yield* syntax.parse(language, before),
        patched: yield* syntax.parse(language, patched),
        twin: null,
        before: alerts(finding("oob", "high", [125])),
        after: clean,
        ...more
      }
      return gate(input)
    })
  const reason = (result: ReturnType<typeof gate>) => (result._tag === "Failed" ? result.reason : "passed")

  it.effect("lets a real repair through and measures it against the twin", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual(yield* run(repaired), { _tag: "Passed", twinSimilarity: null })
      const twin = yield* (yield* Syntax).parse("c", repaired.replace("-1", "0"))
      const result = yield* run(repaired, { twin })
      assert.strictEqual(result._tag, "Passed")
      if (result._tag === "Passed")
        assert.isTrue((result.twinSimilarity ?? 0) > 0.85 && (result.twinSimilarity ?? 1) < 1)
    })
  )
  it.effect("stops comments and whitespace, broken code, and other signatures", () =>
    Effect.gen(function* () {
      assert.strictEqual(
        reason(yield* run("int get(int *a, int n, int i) { /* i < n */ return a[i]; } // ok")),
        "unchanged"
      )
      assert.strictEqual(
        reason(yield* run("int get(int *a, int n, int i) { if (i < n { return a[i]; }")),
        "does-not-parse"
      )
      assert.strictEqual(reason(yield* run("")), "does-not-parse")
      assert.strictEqual(reason(yield* run("// nothing")), "does-not-parse")
      for (const other of [
        "int get2(int *a, int n, int i)",
        "long get(int *a, int n, int i)",
        "int get(int *a, int n)"
      ])
        assert.strictEqual(reason(yield* run(`${other} { if (n) return 0; return 1; }`)), "signature-changed")
      assert.strictEqual(
        reason(yield* run(`#include <limits.h>\nstatic int ok(int i) { return i > 0; }\n${repaired}`)),
        "passed"
      )
      assert.strictEqual(reason(yield* run(repaired.replace("int get(", "int\nget ( "))), "passed")
    })
  )
  it.effect("compares syntax errors with the original's and finds macro headers", () =>
    Effect.gen(function* () {
      const macro = "PHP_FUNCTION(copy)\n{\n  char *d = x;\n  strcpy(d, s);\n}\n"
      const fixed = macro.replace("strcpy(d, s)", "strlcpy(d, s, n)")
      assert.strictEqual(reason(yield* run(fixed, {}, macro)), "passed")
      assert.strictEqual(reason(yield* run(fixed.replace("(copy)", "(move)"), {}, macro)), "signature-changed")
      const syntax = yield* Syntax
      const broken = yield* syntax.parse("c", "int f( { @ ) }")
      assert.isAbove(broken.errors, 0)
    })
  )
  it.effect("reads C++ and Python", () =>
    Effect.gen(function* () {
      const cpp = "int A::get(int i) const {\n  return v[i];\n}"
      assert.strictEqual(reason(yield* run(cpp.replace("v[i]", "v.at(i)"), {}, cpp, "cpp")), "passed")
      assert.strictEqual(
        reason(yield* run("int A::get(int i) { return v.at(i); }", {}, cpp, "cpp")),
        "signature-changed"
      )
      const python = "def f(a: int, b={1: 2}):\n    return open(a)\n"
      assert.strictEqual(reason(yield* run(python.replace("open(a)", "open(safe(a))"), {}, python, "python")), "passed")
      assert.strictEqual(reason(yield* run(python.replace("a: int", "a"), {}, python, "python")), "signature-changed")
      assert.strictEqual(reason(yield* run(`# note\n${python}`, {}, python, "python")), "unchanged")
    })
  )
  it.effect("wants the claimed class gone, whatever number a tool gives it", () =>
    Effect.gen(function* () {
      assert.strictEqual(reason(yield* run(repaired, { after: alerts(finding("x", "low", [787])) })), "finding-remains")
      assert.strictEqual(reason(yield* run(repaired, { after: alerts(finding("x", "low", [190])) })), "passed")
      assert.strictEqual(reason(yield* run(repaired, { after: alerts(finding("x", "medium", [190])) })), "new-finding")
      const known = finding("x", "high", [190])
      assert.strictEqual(
        reason(yield* run(repaired, { before: alerts(known), after: alerts({ ...known, line: 9 }) })),
        "passed"
      )
      assert.strictEqual(
        reason(yield* run(repaired, { before: alerts(known), after: alerts(known, known) })),
        "new-finding"
      )
      assert.strictEqual(reason(yield* run(repaired, { before: notAnalysed, after: alerts(known) })), "new-finding")
    })
  )
  it.effect("never takes silence for a pass", () =>
    Effect.gen(function* () {
      const syntax = yield* Syntax
      const input: GateInput = {
        language: "c",
        cwe: cwe(125),
        original: yield* syntax.parse("c", original),
        patched: yield* syntax.parse("c", repaired),
        twin: null,
        before: clean,
        after: notAnalysed
      }
      assert.deepStrictEqual(gate(input), { _tag: "Failed", reason: "not-analysed", detail: "does not compile" })
      assert.strictEqual(reason(gate(input, { whenNotAnalysed: "accept" })), "passed")
      assert.deepStrictEqual(newFindings(clean, notAnalysed), [])
    })
  )
  it.effect("takes the header from tokens when no definition is recognised", () =>
    Effect.sync(() => {
      assert.strictEqual(looseHeader(["M", "(", "a", ")", "{", "b", "}"], "c"), "M ( a )")
      assert.strictEqual(looseHeader(["def", "f", "(", "a", ":", "b", ")", ":", "pass"], "python"), "def f ( a : b )")
    })
  )
})

describe("line differences", () => {
  /** Length of the longest common subsequence by the quadratic table. */
  const lcs = (a: ReadonlyArray<string>, b: ReadonlyArray<string>): number => {
    let row = new Array<number>(b.length + 1).fill(0)
    for (const x of a) {
      const next = [0]
      b.forEach((y, j) => {
        next.push(x === y ? (row[j] ?? 0) + 1 : Math.max(row[j + 1] ?? 0, next[j] ?? 0))
      })
      row = next
    }
    return row[b.length] ?? 0
  }
  it("are the shortest ones and turn one side into the other (2,000 seeded cases)", () => {
    const random = makeRandom(7, "diff")
    for (let round = 0; round < 2000; round++) {
      const draw = () => Array.from({ length: 1 + random.below(14) }, () => "abcd"[random.below(4)] ?? "")
      const [a, b] = [draw(), draw()]
      const diff = lineDiff(a.join("\n"), b.join("\n"))
      assert.strictEqual(diff.changedLines, a.length + b.length - 2 * lcs(a, b), `${a} | ${b}`)
      const keptA = a.filter((_, index) => !diff.removed.includes(index + 1))
      const keptB = b.filter((_, index) => !diff.added.includes(index + 1))
      assert.deepStrictEqual(keptA, keptB)
      assert.strictEqual(diff.hunks === 0, diff.changedLines === 0)
      assert.strictEqual(diff.firstChange === null, diff.changedLines === 0)
      assert.isAtMost(diff.hunks, diff.changedLines)
    }
  })
  it("count hunks and find the first change", () => {
    const diff = lineDiff("a\nb\nc\nd\ne", "a\nB\nc\nd\nx\ne")
    assert.deepStrictEqual(diff, { changedLines: 3, hunks: 2, removed: [2], added: [2, 5], firstChange: 2 })
    assert.strictEqual(lineDiff("a\nb", "a\nb\nc").firstChange, 2)
    assert.strictEqual(lineDiff("  a\n\tb", "a \nb").changedLines, 0)
  })
  it("stay fast when everything differs", () => {
    const many = (prefix: string) => Array.from({ length: 20_000 }, (_, index) => `${prefix}${index}`).join("\n")
    assert.strictEqual(lineDiff(many("a"), many("b")).changedLines, 40_000)
  })
  it("similarity is 1 for equal, 0 for disjoint, symmetric between", () => {
    const [a, b] = [
      ["if", "(", "x", ")", "y"],
      ["if", "(", "z", ")", "y"]
    ]
    assert.strictEqual(tokenSimilarity(a, a), 1)
    assert.strictEqual(tokenSimilarity([], []), 1)
    assert.strictEqual(tokenSimilarity(["a"], ["b"]), 0)
    assert.strictEqual(tokenSimilarity(a, b), 8 / 12)
    assert.strictEqual(tokenSimilarity(b, a), 8 / 12)
  })
})
