/**
 * gcc's diagnostics (`-fanalyzer` and the optimiser's warnings) as findings: JSON up to gcc 14, SARIF after it.
 * Diagnostics outside the snippet (in headers) and of options that mean no weakness are dropped.
 */
import { cwe, type Finding } from "@srcode/domain"
import { Effect, Result, Schema } from "effect"
import { decodeSarif, resolveResults } from "../../Sarif.ts"
import { columnReader } from "../columns.ts"
import { gccOptions, severityOfCwes } from "../weaknesses.ts"
import type { ToolAnswer } from "./script.ts"

const Point = Schema.Struct({
  file: Schema.optional(Schema.String),
  line: Schema.optional(Schema.Int),
  "byte-column": Schema.optional(Schema.Int)
})

const Diagnostic = Schema.Struct({
  kind: Schema.String,
  message: Schema.optional(Schema.String),
  option: Schema.optional(Schema.String),
  metadata: Schema.optional(Schema.Struct({ cwe: Schema.optional(Schema.Int) })),
  locations: Schema.optional(Schema.Array(Schema.Struct({ caret: Schema.optional(Point) })))
})

const decodeDiagnostics = Schema.decodeUnknownResult(Schema.fromJsonString(Schema.Array(Diagnostic)))

/** Findings, or undefined when gcc gave no readable answer (crash, timeout, compile error). */
export const gccFindings = Effect.fnUntraced(function* (
  tool: string,
  answer: ToolAnswer,
  file: string,
  code: string
): Effect.fn.Return<ReadonlyArray<Finding> | undefined> {
  if (answer.exitCode !== 0) return undefined
  const start = answer.output.search(/^[[{]/m)
  if (start < 0) return undefined
  const text = answer.output.slice(start).split("\n")[0] ?? ""
  const columnOf = columnReader(code)
  if (text.startsWith("[")) {
    const decoded = decodeDiagnostics(text)
    if (Result.isFailure(decoded)) return undefined
    return decoded.success.flatMap((diagnostic) => {
      const caret = diagnostic.locations?.[0]?.caret
      if (diagnostic.kind !== "warning" || caret?.file !== file) return []
      const found = finding(tool, diagnostic.option ?? "", diagnostic.message ?? "", diagnostic.metadata?.cwe)
      const line = caret.line ?? null
      const column = line === null ? null : columnOf(line, caret["byte-column"] ?? 1, "bytes")
      return found === undefined ? [] : [{ ...found, line, column }]
    })
  }
  const sarif = yield* Effect.option(decodeSarif(answer.output.slice(start)))
  if (sarif._tag === "None") return undefined
  return sarif.value.runs.flatMap((run) =>
    resolveResults(run).flatMap((result) => {
      if (result.uri === undefined || !file.endsWith(result.uri.replace(/^file:\/\//, ""))) return []
      const own = result.cwes[0] === undefined ? undefined : Number(result.cwes[0].slice(4))
      const found = finding(tool, result.ruleId, result.message, own)
      const unit = run.columnKind === "utf16CodeUnits" ? "utf16" : "codePoints"
      const line = result.line ?? null
      return found === undefined
        ? []
        : [{ ...found, line, column: line === null ? null : columnOf(line, result.column ?? 1, unit) }]
    })
  )
})

const finding = (tool: string, option: string, message: string, own: number | undefined) => {
  const numbers = own !== undefined ? [own] : (gccOptions[option] ?? gccOptions[option.replace(/=.*$/, "=")] ?? [])
  const cwes = numbers.map(cwe)
  const severity = severityOfCwes(cwes)
  return severity === undefined ? undefined : { tool, ruleId: option, cwes, severity, message }
}
