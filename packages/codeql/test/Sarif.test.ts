import { assert, describe, it } from "@effect/vitest"
import { cwe, type Finding } from "@srcode/domain"
import { Effect, Exit } from "effect"
import { decodeSarif, resolveResults } from "../src/index.ts"
import { columnReader } from "../src/internal/columns.ts"
import { mergeFindings } from "../src/internal/merge.ts"
import { clangCwes, severityOfCwes } from "../src/internal/weaknesses.ts"

const rule = (id: string, score: string | undefined, level?: string, tags: ReadonlyArray<string> = []) => ({
  id,
  ...(level === undefined ? {} : { defaultConfiguration: { level } }),
  properties: { tags, ...(score === undefined ? {} : { "security-severity": score }) }
})

const resolve = (
  results: ReadonlyArray<object>,
  rules: ReadonlyArray<object>,
  extensions: ReadonlyArray<object> = []
) =>
  decodeSarif(
    JSON.stringify({ runs: [{ tool: { driver: { name: "CodeQL", rules }, extensions }, results, unknownKey: 1 }] })
  ).pipe(Effect.map((sarif) => sarif.runs.flatMap(resolveResults)))

describe("SARIF", () => {
  it.effect("severity: the score's steps, then the level", () =>
    Effect.gen(function* () {
      const cases = [
        ["9.0", undefined, "critical"],
        ["8.9", "note", "high"],
        ["7", undefined, "high"],
        ["6.9", "error", "medium"],
        ["3.9", undefined, "low"],
        [undefined, "error", "high"],
        [undefined, "warning", "medium"],
        [undefined, "note", "low"],
        [undefined, undefined, "medium"],
        ["not a number", "error", "high"]
      ] as const
      for (const [score, level, severity] of cases) {
        const [found] = yield* resolve([{ ruleId: "r", message: { text: "" } }], [rule("r", score, level)])
        assert.strictEqual(found?.severity, severity, `${score} ${level}`)
      }
    })
  )

  it.effect("rules: by component and index, by index, by id, and a lying index is not believed", () =>
    Effect.gen(function* () {
      const rules = [rule("a", "9.8"), rule("b", "1.0")]
      const extensions = [{ name: "x" }, { name: "y", rules: [rule("c", "7.5", undefined, ["external/cwe/cwe-078"])] }]
      const found = yield* resolve(
        [
          { ruleId: "c", rule: { index: 0, toolComponent: { index: 1 } }, message: {} },
          { ruleId: "b", ruleIndex: 1, message: {} },
          { ruleId: "c", message: {} },
          { ruleId: "b", ruleIndex: 0, message: {} },
          { ruleId: "gone", ruleIndex: 9, message: {} },
          { ruleIndex: 0, message: {} }
        ],
        rules,
        extensions
      )
      assert.deepStrictEqual(
        found.map((result) => [result.ruleId, result.rule?.id, result.severity]),
        [
          ["c", "c", "high"],
          ["b", "b", "low"],
          ["c", "c", "high"],
          ["b", "b", "low"],
          ["gone", undefined, "medium"],
          ["a", "a", "critical"]
        ]
      )
      assert.deepStrictEqual(found[0]?.cwes, [cwe(78)])
    })
  )

  it.effect("CWE tags are padded with zeros, messages lose their link markup", () =>
    Effect.gen(function* () {
      const tags = [
        "security",
        "external/cwe/cwe-020",
        "external/cwe/cwe-1284",
        "external/owasp/a1",
        "external/cwe/cwe-000"
      ]
      const text = "flows from [user\\] input](1)\n to [a sink](2), see [docs](https://x)"
      const [found] = yield* resolve([{ ruleId: "r", message: { text } }], [rule("r", "5", undefined, tags)])
      assert.deepStrictEqual(found?.cwes, [cwe(20), cwe(1284)])
      assert.strictEqual(found?.message, "flows from user\\] input to a sink, see [docs](https://x)")
    })
  )

  it.effect("truncated or foreign JSON is an error, an empty run is not", () =>
    Effect.gen(function* () {
      for (const text of ["", "{", "[]", '{"runs": 3}', '{"runs": [{"results": []}]}']) {
        assert.isTrue(Exit.isFailure(yield* Effect.exit(decodeSarif(text))), text)
      }
      assert.deepStrictEqual((yield* decodeSarif('{"runs": []}')).runs, [])
    })
  )
})

describe("columns", () => {
  it("bytes, code points and UTF-16 units of one line agree", () => {
    const code = 'int a;\nconst char *é = "😀"; strcpy(p, q);'
    const utf16 = code.split("\n")[1]?.indexOf("strcpy") ?? -1
    const before = code.split("\n")[1]?.slice(0, utf16) ?? ""
    const columnOf = columnReader(code)
    assert.strictEqual(columnOf(2, utf16 + 1, "utf16"), utf16)
    assert.strictEqual(columnOf(2, Buffer.byteLength(before) + 1, "bytes"), utf16)
    assert.strictEqual(columnOf(2, [...before].length + 1, "codePoints"), utf16)
    assert.strictEqual(columnOf(99, 5, "bytes"), 0)
    assert.strictEqual(columnOf(1, 500, "utf16"), 6)
  })
})

describe("mergeFindings", () => {
  const finding = (
    tool: string,
    line: number | null,
    number: number,
    severity: Finding["severity"] = "high"
  ): Finding => ({
    tool,
    ruleId: `${tool}-rule`,
    cwes: [cwe(number)],
    severity,
    message: tool,
    line,
    column: 0
  })

  it("joins one family within two lines and keeps the rest apart", () => {
    const merged = mergeFindings([
      finding("b", 12, 416, "critical"),
      finding("a", 10, 415),
      finding("a", 15, 415),
      finding("c", 11, 476),
      finding("d", null, 415)
    ])
    assert.deepStrictEqual(
      merged.map(({ tool, line, cwes }) => [tool, line, cwes.join()]),
      [
        ["d", null, "CWE-415"],
        ["b+a", 12, "CWE-416,CWE-415"],
        ["c", 11, "CWE-476"],
        ["a", 15, "CWE-415"]
      ]
    )
  })

  it("does not depend on the order of the tools", () => {
    const some = [
      finding("a", 3, 787),
      finding("b", 4, 125, "medium"),
      finding("c", 9, 78),
      finding("d", 3, 787, "low")
    ]
    const keys = (findings: ReadonlyArray<Finding>) =>
      mergeFindings(findings).map(({ line, severity, tool }) => [line, severity, tool.split("+").sort().join()])
    assert.deepStrictEqual(keys(some), keys([...some].reverse()))
  })
})

describe("weaknesses", () => {
  it("tells clang's one heap checker apart by its message, and style apart from weaknesses", () => {
    assert.deepStrictEqual(clangCwes("unix.Malloc", "Attempt to free released memory"), [415])
    assert.deepStrictEqual(clangCwes("unix.Malloc", "Use of memory after it is freed"), [416])
    assert.deepStrictEqual(clangCwes("unix.Malloc", "Potential leak of memory pointed to by 'p'"), [401])
    assert.deepStrictEqual(clangCwes("deadcode.DeadStores", "Value stored is never read"), [])
    assert.strictEqual(severityOfCwes([cwe(401), cwe(787)]), "critical")
    assert.strictEqual(severityOfCwes([cwe(561)]), undefined)
  })
})
