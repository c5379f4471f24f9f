/**
 * The rule teacher against the whole embedded corpus: verdicts against the labels, spans against lengths, repairs
 * against the compiler and the tests of the families. A rule that is wrong for one secure idiom would train that idiom
 * away, so every template counts, under several draws of names and constants.
 */
import { assert, layer } from "@effect/vitest"
import { CorpusJudge, type CorpusTemplate, corpusTemplates } from "@srcode/dataset"
import { Sandbox } from "@srcode/sandbox"
import { resolveSpans, Teacher, TeacherRules } from "@srcode/teacher"
import { Effect, Layer } from "effect"

const request = (template: CorpusTemplate) => ({
  prompt: template.problem.prompt,
  response: template.body,
  language: "c" as const
})
const title = (template: CorpusTemplate): string =>
  `${template.family} ${template.vulnerable ? "vulnerable" : "secure"} ${template.index} (${template.idiom})\n${template.problem.prompt}${template.body}`

/** Prompt and repaired body, when the repair keeps the prompt. */
const mend = (template: CorpusTemplate) =>
  Teacher.use((teacher) =>
    teacher.repair({
      language: "c",
      code: template.problem.prompt + template.body,
      cwes: [template.problem.cwe],
      advisory: null,
      critique: null
    })
  ).pipe(
    Effect.map(({ code }) =>
      code.startsWith(template.problem.prompt) ? code.slice(template.problem.prompt.length) : null
    ),
    Effect.catchTag("TeacherError", () => Effect.succeed(null))
  )

layer(TeacherRules.layer)("the rule teacher on the corpus", (it) => {
  it.effect("verdicts agree with the labels, and no secure idiom is flagged under any draw", () =>
    Effect.gen(function* () {
      const teacher = yield* Teacher
      let agreed = 0
      let all = 0
      const flagged: Array<string> = []
      for (const seed of [1, 2, 3, 4])
        for (const template of corpusTemplates(seed)) {
          const { vulnerable } = yield* teacher.verdict(request(template))
          all += 1
          if (vulnerable === template.vulnerable) agreed += 1
          else flagged.push(title(template))
        }
      assert.isAtLeast(agreed / all, 0.97, flagged.join("\n\n"))
      assert.deepStrictEqual(
        flagged.filter((text) => /^\w+ secure/.test(text)),
        []
      )
    })
  )

  it.effect(
    "spans cover about half of the secure bodies, far less of the vulnerable ones, and all of them resolve",
    () =>
      Effect.gen(function* () {
        const teacher = yield* Teacher
        const share = { secure: { covered: 0, all: 0 }, vulnerable: { covered: 0, all: 0 } }
        for (const template of corpusTemplates()) {
          const { found, dropped, ranges } = resolveSpans(template.body, yield* teacher.secureSpans(request(template)))
          assert.strictEqual(dropped, 0, title(template))
          assert.isAtMost(found, 6, title(template))
          const side = template.vulnerable ? share.vulnerable : share.secure
          side.covered += ranges.reduce((sum, range) => sum + range.end - range.start, 0)
          side.all += template.body.replace(/\s/g, "").length
        }
        const secure = share.secure.covered / share.secure.all
        const vulnerable = share.vulnerable.covered / share.vulnerable.all
        assert.isAbove(secure, 0.4)
        assert.isBelow(secure, 0.65)
        assert.isBelow(vulnerable, 0.5 * secure)
      })
  )

  it.effect("repairs satisfy the scan and the reflection", () =>
    Effect.gen(function* () {
      const teacher = yield* Teacher
      let mended = 0
      const templates = corpusTemplates(2).filter((template) => template.vulnerable)
      for (const template of templates) {
        const body = yield* mend(template)
        if (body === null) continue
        const verdict = yield* teacher.verdict({ ...request(template), response: body })
        const reflection = yield* teacher.reflect({
          language: "c",
          original: template.problem.prompt + template.body,
          patched: template.problem.prompt + body,
          cwe: template.problem.cwe
        })
        if (verdict.vulnerable === false && reflection.accepted) mended += 1
      }
      assert.isAtLeast(mended / templates.length, 0.85)
    })
  )
})

layer(Layer.mergeAll(TeacherRules.layer, CorpusJudge.layer.pipe(Layer.provide(Sandbox.layer))), {
  timeout: "2 minutes"
})("its repairs by execution", (it) => {
  it.effect(
    "compile, do the task and pass the security test in at least 85 % of a third of the templates",
    () =>
      Effect.gen(function* () {
        const judge = yield* CorpusJudge
        const step = 3
        const templates = corpusTemplates(3)
          .filter((template) => template.vulnerable)
          .filter((_, at) => at % step === 0)
        const bodies = yield* Effect.forEach(templates, mend)
        const items = templates.flatMap((template, at) => {
          const body = bodies[at]
          return typeof body === "string" ? [{ template, task: template.problem, body }] : []
        })
        const judged = yield* judge.judgeAll(items)
        const failed = items.flatMap(({ body, template }, at) => {
          const found = judged[at]
          return found?.functional === true && found.secure
            ? []
            : [`${title(template)}\nbecame${body}\n${JSON.stringify(found)}`]
        })
        assert.isAtLeast((items.length - failed.length) / templates.length, 0.85, failed.join("\n\n"))
      }),
    120_000
  )
})
