/** Subscripts, and reads of variables that may not be set. */
import { bare, enclosing, leavesAtOnce, loops, type Node, norm, part, statementOf } from "./Ast.ts"
import { type Capacity, capacities, entryForm, render } from "./Capacity.ts"
import { after, type Edit, replaceNode } from "./Fix.ts"
import { errorReturn, guard } from "./Fixes.ts"
import { atom, constant, isConstant, type Linear, minus, shift, times } from "./Linear.ts"
import type { Guard, State } from "./State.ts"
import { isSuspect, isVariable } from "./Suspects.ts"
import type { Value, Walk } from "./Walk.ts"

export interface Access {
  readonly node: Node
  readonly base: Value
  readonly index: Value
  readonly write: boolean
  readonly stored: Value | undefined
}

/** A subscript must be at least 0 and below what the array holds. */
export const bounds = (walk: Walk, access: Access, state: State): void => {
  const { base, index, node, write } = access
  const { lin } = index
  if (lin === undefined || (base.type.depth < 1 && base.type.base !== "unknown")) return
  const cwe = write ? 787 : 125
  const endsText = access.stored?.lin !== undefined && isConstant(access.stored.lin) && access.stored.lin.constant === 0
  if (endsText && isConstant(lin) && lin.constant === 0) return
  const low = lowerProof(walk, index, lin, endsText, state)
  const caps = capacities(walk, base, lin, write, state)
  const high = upperProof(walk, access, lin, caps, state)
  const why = `keeps ${norm(bare(node.children[1] ?? node))} inside the array it indexes`
  if (low !== undefined) walk.credit(low, cwe, "bound check", why)
  if (high !== undefined) walk.credit(high, cwe, "bound check", why)
  if (low !== undefined && high !== undefined) return
  if (!walk.wants(cwe) && !isSuspect(walk, lin)) return
  if (!walk.closed && !isVariable(walk, lin)) return
  walk.report({
    cwe: caps.some((cap) => cap.heap && cap.unit > 1) ? 131 : cwe,
    severity: write ? "critical" : "high",
    message: `${norm(node)} ${write ? "writes" : "reads"} without ${low === undefined ? "a lower" : "an upper"} bound on the index`,
    node,
    fixes: boundFixes(walk, access, lin, caps, low === undefined, high === undefined, state)
  })
}

const lowerProof = (walk: Walk, index: Value, lin: Linear, endsText: boolean, state: State) => {
  if (isConstant(lin)) return lin.constant >= 0 ? [] : undefined
  // `d[cap - 1] = 0`: a buffer has a size.
  if (endsText && index.type.unsigned) return []
  return walk.prove(times(lin, -1), state)
}

const upperProof = (
  walk: Walk,
  access: Access,
  lin: Linear,
  caps: ReadonlyArray<Capacity>,
  state: State
): ReadonlyArray<Guard | null> | undefined => {
  const remainder = bare(access.node.children[1] ?? access.node)
  if (remainder.type === "binary_expression" && remainder.op === "%") return []
  for (const cap of caps) {
    const proof = walk.prove(minus(times(shift(lin, 1), cap.unit), cap.form), state)
    if (proof !== undefined) return proof
  }
  if (isConstant(lin) && caps.every((cap) => isAssumed(cap) || isTextLength(cap))) return []
  if (caps.some((cap) => !isAssumed(cap))) return undefined
  // Nothing is known of the array: any upper bound that someone wrote is taken, if the task promises enough room.
  for (const fact of state.facts)
    for (const name of fact.form.terms.keys()) {
      if (lin.terms.has(name) || name.startsWith("entry:")) continue
      const proof = walk.prove(shift(minus(lin, atom(name)), 1), state)
      if (proof !== undefined) return proof
    }
  const limits = walk.promised.length > 0 ? walk.promised : [4096]
  for (const limit of limits) {
    const proof = walk.prove(shift(minus(lin, constant(limit)), 1), state)
    if (proof !== undefined) return proof
  }
  return undefined
}

/** The first statement behind the checks that a function begins with. */
const afterChecks = (body: Node): Node | undefined =>
  body.children.find((child) => child.type !== "if_statement" || !leavesAtOnce(part(child, "consequence")))

/** Only what a container is assumed to hold, not what a size says. */
const isTextLength = (cap: Capacity): boolean => [...cap.form.terms.keys()].some((name) => name.startsWith("strlen("))

const isAssumed = (cap: Capacity): boolean => [...cap.form.terms.keys()].some((name) => name.startsWith("held:"))

const boundFixes = (
  walk: Walk,
  access: Access,
  lin: Linear,
  caps: ReadonlyArray<Capacity>,
  low: boolean,
  high: boolean,
  state: State
): ReadonlyArray<ReadonlyArray<Edit>> => {
  const entry = entryForm(lin, state)
  const form = entry ?? lin
  const text = render(form)
  const cap = caps.find((c) => c.unit === 1 && !isAssumed(c))
  const limit =
    cap !== undefined
      ? render(cap.form)
      : (walk.promised[0]?.toString() ?? (walk.closed ? siblingCapacity(access.base) : undefined))
  if (text === undefined || limit === undefined) return elementCount(walk, access, state)
  const fixes: Array<ReadonlyArray<Edit>> = []
  const loop = enclosing(access.node, ...loops)
  const condition = loop === undefined ? undefined : part(loop, "condition")
  if (loop !== undefined && condition !== undefined && high) {
    const inner = bare(condition)
    const [left, right] = inner.children
    if (inner.type === "binary_expression" && left !== undefined && right !== undefined && norm(left) === text) {
      if (inner.op === "<=" && norm(right) === limit) fixes.push([replaceNode(inner, `${left.text} < ${right.text}`)])
      if (inner.op === "<" && norm(right) !== limit) fixes.push(guard(walk, loop, `${right.text} > ${limit}`, state))
    }
    if (changedIn(walk, lin))
      fixes.push([
        replaceNode(inner, `${text} < ${limit} && (${inner.text})`),
        ...after(walk.source, loop, `if (${text} >= ${limit}) ${errorReturn(walk)}`)
      ])
  }
  const index = access.node.children[1]
  const ends = access.stored?.lin !== undefined && isConstant(access.stored.lin) && access.stored.lin.constant === 0
  if (ends && index !== undefined && text === limit) fixes.push([replaceNode(index, `${limit} - 1`)])
  if (cap?.heap === true || caps.some((c) => c.heap)) fixes.unshift(...elementCount(walk, access, state))
  const least = form.constant < 0 ? `${render({ ...form, constant: 0 })} < ${-form.constant}` : `${text} < 0`
  const checks = [...(low ? [least] : []), ...(high ? [`${text} >= ${limit}`] : [])].join(" || ")
  const at = entry === undefined ? access.node : (afterChecks(walk.header.body) ?? access.node)
  fixes.push(guard(walk, at, checks, state))
  return fixes
}

/** A heap block that was counted in bytes gets its element size. */
const elementCount = (walk: Walk, access: Access, state: State): ReadonlyArray<ReadonlyArray<Edit>> => {
  const key = access.base.key
  const block = key === undefined ? undefined : state.cell(key).block
  if (block?.kind !== "heap" || key === undefined || !walk.names.has(key)) return []
  const name = block.node.children[0]?.text
  const args = part(block.node, "arguments")?.children ?? []
  const size = args.at(-1)
  if (size === undefined) return []
  const each = `sizeof(*${key})`
  if (name === "calloc") return [[replaceNode(size, each)]]
  if (name !== "malloc") return []
  const sum = bare(size)
  const count =
    sum.type === "binary_expression" && sum.op === "+"
      ? sum.children.find((c) => bare(c).type !== "sizeof_expression")
      : size
  return count === undefined
    ? []
    : [[replaceNode(size, `${/^\w+$/.test(count.text) ? count.text : `(${count.text})`} * ${each}`)]]
}

const changedIn = (walk: Walk, lin: Linear): boolean =>
  [...lin.terms.keys()].some((name) => walk.loopVariables.some((set) => set.has(name)))

/** `s->data[…]`: by convention the capacity stands beside the data. */
const siblingCapacity = (base: Value): string | undefined => {
  const match = /^(.*(?:->|\.))\w+$/.exec(base.key ?? "")
  return match === null ? undefined : `${match[1]}cap`
}

/** Reading a variable that was never set, or that an unchecked call may have left unset. */
export const readVariable = (walk: Walk, node: Node, key: string, state: State): void => {
  const cell = state.cell(key)
  if (cell.uninitialised !== undefined && walk.wants(457)) {
    walk.report({
      cwe: 457,
      severity: "medium",
      message: `${key} may be read before it is set`,
      node,
      fixes: [initialiser(walk, key, cell.uninitialised)]
    })
    return
  }
  const initial = walk.names.get(key)
  if (initial?.node.type === "init_declarator" && initial.type.depth === 0 && state.flags.has(`joined:${key}`))
    walk.construct(initial.node, 457, "initialised local", `${key} has a value on every path`)
  const { pending } = cell
  if (pending === undefined) return
  const proof = walk.prove(minus(constant(pending.least), atom(pending.call)), state)
  if (proof !== undefined) {
    walk.credit(proof, 252, "checked result", `${key} is read only when the call that sets it succeeded`)
    return
  }
  const statement = statementOf(pending.node)
  const test =
    pending.least > 1 || /scanf$/.test(pending.node.children[0]?.text ?? "")
      ? `${pending.node.text} != ${pending.least}`
      : `!${pending.node.text}`
  const alone = statement.type === "expression_statement" && bare(statement.children[0] ?? statement) === pending.node
  walk.report({
    cwe: 252,
    severity: "medium",
    message: `${key} is read although the result of ${pending.node.children[0]?.text ?? "the call"} was not checked`,
    node,
    fixes: alone ? [[replaceNode(statement, `if (${test}) ${errorReturn(walk, state)}`)]] : []
  })
}

const initialiser = (walk: Walk, key: string, declarator: Node): ReadonlyArray<Edit> => {
  const type = walk.typeOf(key)
  const value = type.depth > 0 ? "NULL" : errorValueOr(walk, "0")
  return [{ start: declarator.end, end: declarator.end, text: ` = ${value}` }]
}

const errorValueOr = (walk: Walk, other: string): string => /return\s+([^;]+);/.exec(errorReturn(walk))?.[1] ?? other
