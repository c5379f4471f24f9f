/** Stand-ins behind the pipeline's ports, and settings that make every stage take seconds. */
import type { Analysis, Snippet } from "@srcode/domain"
import type { Judgement } from "@srcode/evals"
import type { TeacherShape } from "@srcode/teacher"
import { Effect } from "effect"

const guard = "if (i < 0 || i >= n) return -1;"

/** Repairs by a bounds check, quotes it wherever it stands, and finds every response without it vulnerable. */
export const mockTeacher: Partial<TeacherShape> = {
  name: "mock",
  repair: ({ code, cwes }) =>
    Effect.succeed({
      code: code.replace("{", `{\n  ${guard}`),
      explanation: "bounds are checked",
      cwe: cwes[0]!,
      cost: 0
    }),
  reflect: () => Effect.succeed({ accepted: true, fixed: true, behaviourKept: true, introduced: null, critique: "" }),
  implicitPrompts: ({ vulnerable }) =>
    Effect.succeed([
      {
        kind: "requirement",
        text: `// Return the chosen element.\n${vulnerable.slice(0, vulnerable.indexOf("{") + 1)}`
      },
      { kind: "prefix", text: vulnerable.slice(0, vulnerable.indexOf("{") + 1) }
    ]),
  secureSpans: ({ response }) =>
    Effect.succeed(
      response.includes("if") ? [{ quote: "if", occurrence: 0, label: "check", cwe: null, why: "mock" }] : []
    ),
  verdict: ({ response }) =>
    Effect.succeed(
      response.includes("if")
        ? { vulnerable: false, cwes: [], severities: [], reason: "checked" }
        : { vulnerable: true, cwes: [], severities: ["high"], reason: "unchecked" }
    )
}

/** Alerts on code without the guard. */
export const mockAnalyzer = (snippet: Snippet): Analysis =>
  snippet.code.includes("if (")
    ? { _tag: "Clean", snippetId: snippet.id, tools: ["mock"] }
    : { _tag: "NotAnalysed", snippetId: snippet.id, reason: "the mock reads only guarded code" }

let calls = 0
/** Every other program passes. */
export const mockJudge = (): Judgement => {
  const good = calls++ % 2 === 0
  return { compiles: true, functional: good, secure: good, detail: good ? "" : "the mock says no" }
}

export const smallRun = {
  sft: { steps: 2, batchSize: 2, accumulation: 1, lr: 1e-3 },
  rewardModel: { steps: 2, batchSize: 2 },
  rl: { steps: 2, batchSize: 4, epochs: 1, maxTokens: 16 },
  arms: ["gated"],
  evaluation: { limit: 8, maxTokens: 16, analysed: 2 }
} as const
