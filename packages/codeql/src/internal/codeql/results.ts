/**
 * One CodeQL SARIF file over many snippets, told apart again by folder, with the proof of what was analysed.
 *
 * Unusual: "no result" means nothing by itself. A snippet is clean only when the suite's diagnostics list its file as
 * extracted; otherwise it is not analysed. Results whose data flow leaves the snippet's folder are artefacts of many
 * programs in one database (each defines `main`) and are dropped.
 */
import type { Finding } from "@srcode/domain"
import { type Notification, type Run, resolveResults, type Sarif } from "../../Sarif.ts"
import { columnReader } from "../columns.ts"
import { mergeFindings } from "../merge.ts"

export type Outcome =
  | { readonly _tag: "Analysed"; readonly findings: ReadonlyArray<Finding> }
  | { readonly _tag: "NotAnalysed"; readonly reason: string }

/** The folder (snippet key) of a result's file, undefined for anything that is not one of our files. */
const folderOf = (uri: string | undefined): string | undefined =>
  /^(?:\.\/)?([0-9a-f]{32})\/snippet\.(?:c|cpp|py)$/.exec(uri ?? "")?.[1]

/** `codes` maps each folder to its text as written to disk. `partial`: some queries timed out, so absence proves nothing. */
export const outcomes = (
  sarif: Sarif,
  codes: ReadonlyMap<string, string>,
  partial: boolean
): ReadonlyMap<string, Outcome> => {
  const findings = new Map<string, Array<Finding>>()
  const extracted = new Set<string>()
  const problems = new Map<string, string>()
  for (const run of sarif.runs) {
    collectFindings(run, codes, findings)
    collectCoverage(run, extracted, problems)
  }
  return new Map(
    [...codes.keys()].map((folder): readonly [string, Outcome] => {
      const own = mergeFindings(findings.get(folder) ?? [])
      const problem = problems.get(folder)
      if (own.length > 0) return [folder, { _tag: "Analysed", findings: own }]
      if (problem !== undefined)
        return [folder, { _tag: "NotAnalysed", reason: `CodeQL could not read it: ${problem}` }]
      if (!extracted.has(folder))
        return [folder, { _tag: "NotAnalysed", reason: "CodeQL does not list it as extracted" }]
      if (partial) return [folder, { _tag: "NotAnalysed", reason: "some CodeQL queries timed out" }]
      return [folder, { _tag: "Analysed", findings: [] }]
    })
  )
}

const collectFindings = (run: Run, codes: ReadonlyMap<string, string>, findings: Map<string, Array<Finding>>): void => {
  const unit = run.columnKind === "unicodeCodePoints" ? "codePoints" : "utf16"
  for (const result of resolveResults(run)) {
    const folder = folderOf(result.uri)
    const code = folder === undefined ? undefined : codes.get(folder)
    if (folder === undefined || code === undefined) continue
    if (result.flowUris.some((uri) => folderOf(uri) !== folder)) continue
    const line = result.line ?? null
    findings.set(folder, [
      ...(findings.get(folder) ?? []),
      {
        tool: "codeql",
        ruleId: result.ruleId,
        cwes: result.cwes,
        severity: result.severity,
        message: result.message,
        line,
        column: line === null ? null : columnReader(code)(line, result.column ?? 1, unit)
      }
    ])
  }
}

/**
 * The suites' diagnostic queries: `…/successfully-extracted-files` names files; `…/extraction-warnings` (recovered: still
 * analysed) and `…/extraction-errors`, `…/failed-extractor-invocations` (lost) name files with a message.
 */
const collectCoverage = (run: Run, extracted: Set<string>, problems: Map<string, string>): void => {
  const notifications = (run.invocations ?? []).flatMap((invocation) => invocation.toolExecutionNotifications ?? [])
  for (const notification of notifications) {
    const id = notification.descriptor?.id ?? ""
    const isError = notification.level === "error"
    for (const folder of foldersOf(notification)) {
      if (isError) problems.set(folder, notification.message?.text ?? id)
      else if (/(?:successfully-extracted-files|extraction-warnings)$/.test(id)) extracted.add(folder)
    }
  }
}

const foldersOf = (notification: Notification): ReadonlyArray<string> =>
  (notification.locations ?? []).flatMap((location) => folderOf(location.physicalLocation?.artifactLocation?.uri) ?? [])
