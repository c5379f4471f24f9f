/**
 * One scan of one function: what it is about, and what it has found so far.
 *
 * Two kinds of results. A *finding* is a sink whose requirement could not be proved from what is known there. A
 * *construct* is a piece of source that helped to prove one, so a guard that protects nothing is never a construct.
 */
import { type CweId, cwe, type Severity, sameCweFamily } from "@srcode/domain"
import type { Node } from "./Ast.ts"
import type { Edit } from "./Fix.ts"
import { type Linear, prove } from "./Linear.ts"
import type { Guard, Known, State } from "./State.ts"
import { type CType, type Declared, type Header, unknownType } from "./Types.ts"

export interface RuleFinding {
  readonly cwe: number
  readonly severity: Severity
  readonly message: string
  readonly node: Node
  /** Alternatives in order of preference; each is a complete set of edits to the source. */
  readonly fixes: ReadonlyArray<ReadonlyArray<Edit>>
}

export interface Construct {
  readonly start: number
  readonly end: number
  readonly label: string
  readonly cwe: number
  readonly why: string
}

export interface Value {
  readonly node: Node
  readonly type: CType
  /** The value as a linear form, for integers. */
  readonly lin?: Linear
  /** The pointer's or variable's normalised text, when it is a place. */
  readonly key?: string
  readonly isNull?: boolean
  /** A call's name, and the atom its result is known by. */
  readonly call?: { readonly name: string; readonly atom: string; readonly args: ReadonlyArray<Value> }
  /** The raw text between the quotes of a string literal. */
  readonly literal?: string
}

export class Walk {
  readonly source: string
  readonly header: Header
  /** Declared names, parameters first. */
  readonly names = new Map<string, Declared>()
  readonly findings: Array<RuleFinding> = []
  readonly constructs: Array<Construct> = []
  /** Pointer parameters that are used without being checked: the first use of each. */
  readonly bareParams = new Map<string, Node>()
  /** Numbers in the words before the function: sizes a requirement may promise. */
  readonly promised: ReadonlyArray<number>
  /** True when the function stands alone (no project around it whose names and habits are unknown). */
  readonly closed: boolean
  /** States at `goto label`, by label. */
  readonly jumps = new Map<string, State>()
  /** Control reaches the closing brace. */
  fallsOff = false
  /** The first statement that stands behind a jump. */
  unreached: Node | undefined
  /** Variables changed by the loops around the present point. */
  readonly loopVariables: Array<ReadonlySet<string>> = []
  /** Collected states at `break` (loops, switches) and `continue` (loops). */
  readonly breaks: Array<Array<State>> = []
  readonly continues: Array<Array<State>> = []
  private readonly seen = new Set<string>()

  /** The words before the function: what was asked for. */
  readonly request: string

  /** Classes that someone claims: for these, weaker signs are enough in a project's code. */
  readonly focus: ReadonlyArray<CweId>

  constructor(source: string, header: Header, request: string, closed: boolean, focus: ReadonlyArray<CweId> = []) {
    this.source = source
    this.header = header
    this.request = request
    this.promised = [...request.matchAll(/(?<![-\w.'"<>=])(\d+)\b/g)].map((m) => Number(m[1])).filter((n) => n > 1)
    this.closed = closed
    this.focus = focus
    for (const param of header.params) this.names.set(param.name, param)
  }

  typeOf(name: string): CType {
    return this.names.get(name)?.type ?? unknownType
  }

  /** Whether a sign that is weak in unknown surroundings counts for this class. */
  wants(number: number): boolean {
    return this.closed || this.focus.some((id) => sameCweFamily(id, cwe(number)))
  }

  isParam(name: string): boolean {
    return this.header.params.some((p) => p.name === name)
  }

  report(finding: RuleFinding): void {
    const key = `${finding.cwe}:${finding.node.start}:${finding.node.end}`
    if (this.seen.has(key)) return
    this.seen.add(key)
    this.findings.push(finding)
  }

  /** Proves `goal ≤ 0` at this point; undefined when it does not follow. Type facts of the atoms are added. */
  prove(goal: Linear, state: State): ReadonlyArray<Guard | null> | undefined {
    return prove(goal, [...state.facts, ...this.background(goal, state)])
  }

  private background(goal: Linear, state: State): ReadonlyArray<Known> {
    const facts: Array<Known> = []
    const add = (name: string): void => {
      if (this.isNonNegative(name)) facts.push({ form: { constant: 0, terms: new Map([[name, -1]]) }, origin: null })
    }
    for (const name of goal.terms.keys()) add(name)
    for (const fact of state.facts) for (const name of fact.form.terms.keys()) if (!goal.terms.has(name)) add(name)
    return facts
  }

  /** Sizes, lengths and unsigned variables. */
  isNonNegative(name: string): boolean {
    if (name.startsWith("strlen(") || name.startsWith("sizeof") || name.startsWith("held:")) return true
    const type = this.names.get(name)?.type
    return type !== undefined && type.depth === 0 && type.unsigned
  }

  /** Marks the guards as secure constructs: they proved something about a sink of this class. */
  credit(guards: ReadonlyArray<Guard | null>, cwe: number, label: string, why: string): void {
    for (const guard of guards) {
      if (guard === null) continue
      const range = creditedRange(guard)
      if (range !== undefined) this.constructs.push({ ...range, label, cwe, why })
    }
  }

  construct(node: Node, cwe: number, label: string, why: string): void {
    this.constructs.push({ start: node.start, end: node.end, label, cwe, why })
  }
}

/** What of a check is worth pointing at: the whole early exit, a condition, or the extra bound of a loop. */
const creditedRange = (guard: Guard): { readonly start: number; readonly end: number } | undefined => {
  const { node, leaf, kind } = guard
  if (kind === "loop") {
    // `i < n` of a counting loop is how loops are written; a bound beside another condition was put there on purpose.
    const parent = leaf.parent
    const beside = parent?.type === "binary_expression" && (parent.op === "&&" || parent.op === "||")
    return beside ? { start: leaf.start, end: leaf.end } : undefined
  }
  if (kind === "exit") return { start: node.start, end: node.end }
  if (kind === "branch") {
    const condition = node.children.find((c) => c.field === "condition")
    return { start: node.start, end: (condition ?? leaf).end }
  }
  const whole = node.type === "conditional_expression" ? node : leaf
  return { start: whole.start, end: whole.end }
}
