/** The clang static analyzer's SARIF as findings. It names no CWE: the class comes from the checker and the message. */
import { cwe, type Finding } from "@srcode/domain"
import { Effect } from "effect"
import { decodeSarif, resolveResults } from "../../Sarif.ts"
import { columnReader } from "../columns.ts"
import { clangCwes, severityOfRule } from "../weaknesses.ts"
import type { ToolAnswer } from "./script.ts"

/** Findings, or undefined when clang gave no readable answer (it writes no file at all after a compile error). */
export const clangFindings = Effect.fnUntraced(function* (
  answer: ToolAnswer,
  file: string,
  code: string
): Effect.fn.Return<ReadonlyArray<Finding> | undefined> {
  if (answer.exitCode !== 0) return undefined
  const sarif = yield* Effect.option(decodeSarif(answer.output))
  if (sarif._tag === "None") return undefined
  const columnOf = columnReader(code)
  return sarif.value.runs.flatMap((run) =>
    resolveResults(run).flatMap((result) => {
      if (result.uri !== `file://${file}`) return []
      const cwes = clangCwes(result.ruleId, result.message).map(cwe)
      const severity = severityOfRule(result.ruleId, cwes)
      if (severity === undefined) return []
      const unit = run.columnKind === "utf16CodeUnits" ? "utf16" : "codePoints"
      const line = result.line ?? null
      const column = line === null ? null : columnOf(line, result.column ?? 1, unit)
      return [{ tool: "clang-analyzer", ruleId: result.ruleId, cwes, severity, message: result.message, line, column }]
    })
  )
})
