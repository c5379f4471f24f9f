import { assert, describe, it } from "@effect/vitest"
import {
  againMark,
  corpusTemplates,
  drawEvaluation,
  drawProblem,
  families,
  heldOutFamilies,
  isHeldOutFamily,
  isHeldOutPrompt,
  mixture,
  pretrainDocuments,
  rlPrompts,
  seenFamilies,
  sftRows,
  verdictMark
} from "../src/corpus/index.ts"
import { makeRandom } from "../src/Random.ts"

/** The prompt of the first program of a text. */
const promptOf = (text: string): string => text.slice(0, text.indexOf(" {\n") + 2)

describe("families", () => {
  it("cover at least 40 tasks and 14 classes, with at least 100 bodies of each kind", () => {
    assert.isAtLeast(families.length, 40)
    assert.isAtLeast(new Set(families.map((family) => family.cwe)).size, 14)
    const templates = corpusTemplates()
    assert.isAtLeast(templates.filter((template) => template.vulnerable).length, 100)
    assert.isAtLeast(templates.filter((template) => !template.vulnerable).length, 100)
  })

  it("have unique names, and the held-out list names existing ones", () => {
    const names = families.map((family) => family.name)
    assert.strictEqual(new Set(names).size, names.length)
    for (const name of heldOutFamilies) assert.include(names, name)
    assert.strictEqual(seenFamilies.length, families.length - heldOutFamilies.length)
  })

  it("leave no hole open, no name twice and no hint of security in any prompt", () => {
    const hint = /secur|safe|vuln|check|bound|valid|overflow|attack|inject|sanit|leak|trust|danger|careful|guard/i
    for (const family of families) {
      const random = makeRandom(7, family.name)
      for (let draw = 0; draw < 60; draw++) {
        const problem = drawProblem(random, family)
        const all = [problem.prompt, problem.secure, problem.vulnerable, problem.functionalTest, problem.securityTest]
        for (const text of all) assert.notMatch(text, /\{[a-z]\w*\}/, family.name)
        assert.notMatch(problem.prompt, /\[[^\]]*\|/, family.name)
        assert.notMatch(problem.prompt, hint, family.name)
        assert.isTrue(problem.prompt.endsWith(") {") && problem.prompt.split("\n").length === 2, problem.prompt)
        assert.isTrue(problem.secure.startsWith("\n  ") && problem.secure.endsWith("\n}"), problem.secure)
        const words = Object.values(problem.bindings).filter((word) => /^[a-z_]/i.test(word))
        assert.strictEqual(new Set(words).size, words.length, problem.prompt)
      }
    }
  })

  it("have enough reserved prompts for the evaluation list", () => {
    for (const family of families) {
      const random = makeRandom(11, family.name)
      const prompts = new Set(Array.from({ length: 120 }, () => drawEvaluation(random, family).prompt))
      assert.isAtLeast(prompts.size, isHeldOutFamily(family.name) ? 9 : 4, family.name)
    }
  })
})

describe("pretrainDocuments", () => {
  const documents = pretrainDocuments({ seed: 3, count: 6000 })

  it("are a pure function of the seed, and a longer list extends a shorter one", () => {
    assert.deepStrictEqual(pretrainDocuments({ seed: 3, count: 200 }), documents.slice(0, 200))
    assert.notDeepEqual(pretrainDocuments({ seed: 4, count: 200 }), documents.slice(0, 200))
  })

  it("keep to the mixture and to the reserved prompts", () => {
    const pairs = documents.filter((text) => text.includes(againMark)).length / documents.length
    const verdicts = documents.filter((text) => text.includes(verdictMark)).length / documents.length
    assert.closeTo(pairs, mixture.pair, 0.02)
    const seenShare = seenFamilies.length / families.length
    assert.closeTo(verdicts, mixture.verdict * seenShare, 0.015)
    const judged = documents.filter((text) => text.includes(verdictMark))
    const vulnerable = judged.filter((text) => text.includes(`${verdictMark} vulnerable CWE-`)).length / judged.length
    assert.closeTo(vulnerable, mixture.vulnerable, 0.07)
    for (const text of documents) assert.isFalse(isHeldOutPrompt(promptOf(text)), text)
    assert.isAbove(new Set(documents).size / documents.length, 0.9)
  })
})

describe("sftRows and rlPrompts", () => {
  it("are one third detection, of seen families and prompts only, and deterministic", () => {
    const rows = sftRows({ seed: 5, count: 900 })
    assert.deepStrictEqual(sftRows({ seed: 5, count: 900 }), rows)
    assert.strictEqual(rows.filter((row) => row.kind === "detect").length, 300)
    for (const row of rows) {
      assert.isFalse(isHeldOutFamily(row.family))
      assert.isFalse(isHeldOutPrompt(promptOf(row.prompt)))
      if (row.kind === "repair") {
        assert.isTrue(row.prompt.endsWith(againMark))
        assert.isTrue(row.completion.startsWith(`\n${promptOf(row.prompt)}\n`), row.completion)
      } else assert.match(row.completion, /^ (secure|vulnerable CWE-\d+)$/)
    }
  })

  it("give distinct training prompts and end even when more are wanted than exist", () => {
    const problems = rlPrompts({ seed: 6, count: 640 })
    assert.strictEqual(problems.length, 640)
    assert.strictEqual(new Set(problems.map((problem) => problem.prompt)).size, 640)
    for (const problem of problems) assert.isFalse(problem.heldOut || isHeldOutPrompt(problem.prompt))
  })
})
