/**
 * The part of SARIF 2.1.0 which analyzers' answers are read from. Tolerant by design: unknown keys are ignored, regions
 * and levels may be missing, rules may live in the driver or (CodeQL with packs) in extensions.
 *
 * Unusual: CodeQL's `security-severity` is a string, its results carry no level (it is the rule's), and its CWE tags are
 * zero-padded (`external/cwe/cwe-078`).
 */
import { type CweId, cwe, type Severity, severityFromScore } from "@srcode/domain"
import { Schema } from "effect"

const Region = Schema.Struct({
  startLine: Schema.optional(Schema.Int),
  startColumn: Schema.optional(Schema.Int)
})

const PhysicalLocation = Schema.Struct({
  artifactLocation: Schema.optional(Schema.Struct({ uri: Schema.optional(Schema.String) })),
  region: Schema.optional(Region)
})

const Location = Schema.Struct({ physicalLocation: Schema.optional(PhysicalLocation) })

const Rule = Schema.Struct({
  id: Schema.String,
  defaultConfiguration: Schema.optional(Schema.Struct({ level: Schema.optional(Schema.String) })),
  properties: Schema.optional(
    Schema.Struct({
      tags: Schema.optional(Schema.Array(Schema.String)),
      "security-severity": Schema.optional(Schema.Union([Schema.String, Schema.Finite]))
    })
  )
})
export type Rule = typeof Rule.Type

const Component = Schema.Struct({ name: Schema.optional(Schema.String), rules: Schema.optional(Schema.Array(Rule)) })

const Result = Schema.Struct({
  ruleId: Schema.optional(Schema.String),
  ruleIndex: Schema.optional(Schema.Int),
  rule: Schema.optional(
    Schema.Struct({
      id: Schema.optional(Schema.String),
      index: Schema.optional(Schema.Int),
      toolComponent: Schema.optional(Schema.Struct({ index: Schema.optional(Schema.Int) }))
    })
  ),
  level: Schema.optional(Schema.String),
  message: Schema.Struct({ text: Schema.optional(Schema.String) }),
  locations: Schema.optional(Schema.Array(Location)),
  taxa: Schema.optional(Schema.Array(Schema.Struct({ id: Schema.optional(Schema.String) }))),
  codeFlows: Schema.optional(
    Schema.Array(
      Schema.Struct({
        threadFlows: Schema.Array(
          Schema.Struct({ locations: Schema.Array(Schema.Struct({ location: Schema.optional(Location) })) })
        )
      })
    )
  )
})
export type Result = typeof Result.Type

const Notification = Schema.Struct({
  descriptor: Schema.optional(Schema.Struct({ id: Schema.optional(Schema.String) })),
  level: Schema.optional(Schema.String),
  message: Schema.optional(Schema.Struct({ text: Schema.optional(Schema.String) })),
  locations: Schema.optional(Schema.Array(Location))
})
export type Notification = typeof Notification.Type

const Run = Schema.Struct({
  tool: Schema.Struct({ driver: Component, extensions: Schema.optional(Schema.Array(Component)) }),
  columnKind: Schema.optional(Schema.String),
  results: Schema.optional(Schema.Array(Result)),
  invocations: Schema.optional(
    Schema.Array(Schema.Struct({ toolExecutionNotifications: Schema.optional(Schema.Array(Notification)) }))
  )
})
export type Run = typeof Run.Type

export const Sarif = Schema.Struct({ version: Schema.optional(Schema.String), runs: Schema.Array(Run) })
export type Sarif = typeof Sarif.Type

/** Decodes the text of a SARIF file; fails with a `SchemaError` on truncated or foreign JSON. */
export const decodeSarif = Schema.decodeUnknownEffect(Schema.fromJsonString(Sarif))

/** A result with its rule resolved: by tool component and index, then by index in the driver, then by id. */
export interface ResolvedResult {
  readonly ruleId: string
  readonly rule: Rule | undefined
  readonly cwes: ReadonlyArray<CweId>
  readonly severity: Severity
  readonly message: string
  readonly uri: string | undefined
  /** 1-based; undefined when the result has no region. */
  readonly line: number | undefined
  /** 1-based in the run's `columnKind`; undefined with `line`. */
  readonly column: number | undefined
  /** Files on all code flows, primary location included. */
  readonly flowUris: ReadonlyArray<string>
}

export const resolveResults = (run: Run): ReadonlyArray<ResolvedResult> =>
  (run.results ?? []).map((result) => {
    const rule = ruleOf(run, result)
    const location = result.locations?.[0]?.physicalLocation
    const line = location?.region?.startLine
    const flows = (result.codeFlows ?? []).flatMap((flow) => flow.threadFlows).flatMap((thread) => thread.locations)
    const uris = [location, ...flows.map((step) => step.location?.physicalLocation)]
    return {
      ruleId: result.ruleId ?? result.rule?.id ?? rule?.id ?? "unknown",
      rule,
      cwes: cwesOf(rule, result),
      severity: severityOf(rule, result),
      message: plainMessage(result.message.text ?? ""),
      uri: location?.artifactLocation?.uri,
      line,
      column: line === undefined ? undefined : (location?.region?.startColumn ?? 1),
      flowUris: uris.flatMap((at) => at?.artifactLocation?.uri ?? [])
    }
  })

const ruleOf = (run: Run, result: Result): Rule | undefined => {
  const id = result.ruleId ?? result.rule?.id
  const extension = result.rule?.toolComponent?.index
  const index = result.rule?.index ?? result.ruleIndex
  const rules = extension === undefined ? run.tool.driver.rules : run.tool.extensions?.[extension]?.rules
  const byIndex = index === undefined ? undefined : rules?.[index]
  if (byIndex !== undefined && (id === undefined || id.startsWith(byIndex.id))) return byIndex
  return [run.tool.driver, ...(run.tool.extensions ?? [])]
    .flatMap((component) => component.rules ?? [])
    .find((rule) => rule.id === id)
}

const cwesOf = (rule: Rule | undefined, result: Result): ReadonlyArray<CweId> => {
  const tagged = (rule?.properties?.tags ?? []).flatMap(
    (tag) => /^external\/cwe\/cwe-0*([1-9]\d*)$/i.exec(tag)?.[1] ?? []
  )
  const taxa = (result.taxa ?? []).flatMap((taxon) => /^(?:CWE-)?0*([1-9]\d{0,4})$/i.exec(taxon.id ?? "")?.[1] ?? [])
  return [...new Set([...tagged, ...taxa])].map((number) => cwe(Number(number)))
}

/** GitHub's rule: the score when there is one, else the level (error high, warning medium, note low). */
const severityOf = (rule: Rule | undefined, result: Result): Severity => {
  const score = Number(rule?.properties?.["security-severity"] ?? Number.NaN)
  if (Number.isFinite(score)) return severityFromScore(score)
  const level = result.level ?? rule?.defaultConfiguration?.level ?? "warning"
  return level === "error" ? "high" : level === "warning" ? "medium" : "low"
}

/** `[label](3)` points into relatedLocations, which nobody sees here. */
const plainMessage = (text: string): string =>
  text
    .replace(/\[((?:[^\]\\]|\\.)*)\]\(\d+\)/g, "$1")
    .replace(/\s+/g, " ")
    .trim()
