/** cppcheck's XML as findings. It accepts fragments that no compiler takes, which makes it the tool of last resort. */
import { cwe, type Finding } from "@srcode/domain"
import { columnReader } from "../columns.ts"
import { severityOfCwes } from "../weaknesses.ts"
import type { ToolAnswer } from "./script.ts"

export type CppcheckAnswer =
  | { readonly _tag: "Answered"; readonly findings: ReadonlyArray<Finding> }
  /** It could not read the text (its own syntax error, an unknown macro) or it crashed. */
  | { readonly _tag: "Refused"; readonly reason: string }

const gaveUp = new Set([
  "syntaxError",
  "internalError",
  "internalAstError",
  "cppcheckError",
  "unknownMacro",
  "preprocessorErrorDirective"
])

export const cppcheckFindings = (answer: ToolAnswer, file: string, code: string): CppcheckAnswer => {
  if (answer.exitCode !== 0 || !answer.output.includes("</results>")) {
    return { _tag: "Refused", reason: `cppcheck ended with code ${answer.exitCode}` }
  }
  const columnOf = columnReader(code)
  const findings: Array<Finding> = []
  for (const element of answer.output.matchAll(/<error\b([^>]*?)(?:\/>|>([\s\S]*?)<\/error>)/g)) {
    const error = attributes(element[1] ?? "")
    if (gaveUp.has(error.id ?? "")) return { _tag: "Refused", reason: `cppcheck: ${error.msg ?? error.id}` }
    const place = /<location\b([^>]*?)\/?>/.exec(element[2] ?? "")?.[1]
    const location = attributes(place ?? "")
    const cwes = error.cwe === undefined ? [] : [cwe(Number(error.cwe))]
    const severity = severityOfCwes(cwes)
    if (location.file !== file || severity === undefined) continue
    const line = Number(location.line)
    findings.push({
      tool: "cppcheck",
      ruleId: error.id ?? "unknown",
      cwes,
      severity,
      message: error.msg ?? "",
      line: Number.isInteger(line) && line > 0 ? line : null,
      column: line > 0 ? columnOf(line, Number(location.column ?? 1), "bytes") : null
    })
  }
  return { _tag: "Answered", findings }
}

const attributes = (text: string): Readonly<Record<string, string>> =>
  Object.fromEntries(
    [...text.matchAll(/([\w-]+)="([^"]*)"/g)].map(([, name, value]) => [name ?? "", decodeEntities(value ?? "")])
  )

const entities: Readonly<Record<string, string>> = { lt: "<", gt: ">", amp: "&", quot: '"', apos: "'" }

const decodeEntities = (text: string): string =>
  text.replace(/&(?:#(\d+)|#x([0-9a-f]+)|(\w+));/gi, (whole, decimal, hex, name) =>
    decimal !== undefined || hex !== undefined
      ? String.fromCodePoint(Math.min(0x10ffff, decimal === undefined ? Number.parseInt(hex, 16) : Number(decimal)))
      : (entities[name] ?? whole)
  )
