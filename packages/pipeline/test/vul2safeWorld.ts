/**
 * A small world for the data construction: twelve functions and a teacher whose conduct follows from the function's
 * number, so that every stage's acceptance and rejection occurs and the whole outcome is known in advance.
 */
import { Analyzer } from "@srcode/codeql"
import { contentHash } from "@srcode/dataset"
import { type Analysis, cwe, type Sample, type Snippet } from "@srcode/domain"
import { NoRepair, Teacher, type TeacherError, type TeacherShape, teacherError } from "@srcode/teacher"
import { Effect } from "effect"

export const code = (n: number) => `int f${n}(char *d, char *s, int n)\n{\n  strcpy(d, s);\n  return ${n};\n}\n`
export const fixed = (n: number) =>
  code(n).replace("strcpy(d, s);", "if (strlen(s) >= (size_t) n)\n    return -1;\n  strcpy(d, s);")

export const sample = (n: number): Sample => ({
  id: contentHash(code(n)),
  source: {
    dataset: "primevul",
    idx: String(n),
    project: "world",
    commitId: `c${n >> 1}`,
    commitMessage: "",
    cve: null,
    cveDescription: `A wrong copy in f${n} of world.c lets remote users crash the daemon`
  },
  language: "c",
  vulnerable: true,
  code: code(n),
  cwes: [cwe(120)],
  twin: n % 2 === 0 ? fixed(n) : null
})
export const samples = Array.from({ length: 12 }, (_, n) => sample(n))

const numberIn = (text: string) => Number(/\bf(\d+)\(/.exec(text)?.[1] ?? "-1")
/** What becomes of f(n), by n mod 6. */
export const conduct = (n: number) => n % 6
export const expected = [
  "accepted",
  "accepted",
  "repair/no-repair",
  "reflect/not-accepted",
  "gate/finding-remains",
  "prompts/leak"
]

export interface Calls {
  repair: number
  reflect: number
  implicitPrompts: number
}

/** `before` runs ahead of every call with the running number of the call (from 1) and may fail it. */
export const teacherOf = (
  calls: Calls,
  before: (call: number) => Effect.Effect<void, TeacherError> = () => Effect.void
): Partial<TeacherShape> => {
  const count = (method: keyof Calls) =>
    Effect.suspend(() => {
      calls[method]++
      return before(calls.repair + calls.reflect + calls.implicitPrompts)
    })
  return {
    name: "world",
    repair: ({ code: given, critique }) =>
      Effect.andThen(
        count("repair"),
        Effect.suspend(() => {
          const n = numberIn(given)
          if (conduct(n) === 2) return Effect.fail(teacherError(new NoRepair({ detail: "strcpy" })))
          const round = critique === null ? 1 : Number(critique) + 1
          return Effect.succeed({
            code: `${fixed(n)}${round > 1 ? `/* ${round} */ static int unused${round};\n` : ""}`,
            explanation: `round ${round}`,
            cwe: cwe(787),
            cost: 0.25
          })
        })
      ),
    reflect: ({ original, patched }) =>
      Effect.andThen(
        count("reflect"),
        Effect.sync(() => {
          const n = numberIn(original)
          const round = Number(/unused(\d)/.exec(patched)?.[1] ?? 1)
          const accepted = conduct(n) === 1 ? round === 2 : conduct(n) !== 3
          return { accepted, fixed: accepted, behaviourKept: true, introduced: null, critique: String(round) }
        })
      ),
    implicitPrompts: ({ vulnerable }) =>
      Effect.andThen(
        count("implicitPrompts"),
        Effect.sync(() => {
          const n = numberIn(vulnerable)
          const text = conduct(n) === 5 ? "Copy s into d safely." : `Copy s into d and return ${n}.`
          return [
            { kind: "requirement" as const, text },
            { kind: "prefix" as const, text: vulnerable.slice(0, vulnerable.indexOf("{") + 2) }
          ]
        })
      )
  }
}

const analyse = (snippet: Snippet): Analysis => {
  const clean = snippet.code.includes("strlen") && conduct(numberIn(snippet.code)) !== 4
  if (clean) return { _tag: "Clean", snippetId: snippet.id, tools: ["world"] }
  const finding = {
    tool: "world",
    ruleId: "strcpy",
    cwes: [cwe(120)],
    severity: "high" as const,
    message: "copies without a limit",
    line: 3,
    column: 2
  }
  return { _tag: "Alerts", snippetId: snippet.id, findings: [finding], tools: ["world"] }
}
export const analyzerLayer = Analyzer.layerTest(analyse)
export const teacherLayer = (calls: Calls, before?: (call: number) => Effect.Effect<void, TeacherError>) =>
  Teacher.layerTest(teacherOf(calls, before))
export const noCalls = (): Calls => ({ repair: 0, reflect: 0, implicitPrompts: 0 })
