/** What must hold when a function is left: nothing owned is lost, nothing freed stays reachable, every text has its end. */
import { bare, enclosing, findAll, type Node, norm, part, statementOf } from "./Ast.ts"
import { capacities, render } from "./Capacity.ts"
import { unterminatedFix } from "./Copies.ts"
import { after, before, type Edit, replaceNode } from "./Fix.ts"
import { errorReturn, errorValue } from "./Fixes.ts"
import { atom, constant, isConstant, minus } from "./Linear.ts"
import type { State } from "./State.ts"
import type { Value, Walk } from "./Walk.ts"

export const leave = (walk: Walk, node: Node, value: Value | undefined, state: State): void => {
  for (const [key, cell] of state.cells) {
    if (cell.owned === true && isLocal(walk, key) && !state.flags.has(`null:${key}`) && !escapes(walk, key, value))
      leak(walk, node, key, state)
    if (cell.freed !== undefined) dangling(walk, node, key, cell.freed, value, state)
    if (cell.nullable !== undefined && walk.closed) hollow(walk, node, key, value, state)
    if (cell.unterminated !== undefined) unterminated(walk, key, cell.unterminated, state)
    if (cell.pending !== undefined && key.startsWith("*") && walk.isParam(key.slice(1)) && !isFailure(walk, value))
      unchecked(walk, key, cell.pending, state)
  }
}

const isLocal = (walk: Walk, key: string): boolean =>
  /^[A-Za-z_]\w*$/.test(key) && walk.names.has(key) && !walk.isParam(key)

/** The returned value is the pointer itself, or something built around it. */
const escapes = (walk: Walk, key: string, value: Value | undefined): boolean => {
  if (value === undefined || walk.header.returns.depth === 0) return false
  if (value.key === key) return true
  return findAll(value.node, "identifier").some(
    (n) => n.text === key && n.parent?.type !== "field_expression" && n.parent?.type !== "subscript_expression"
  )
}

const isFailure = (walk: Walk, value: Value | undefined): boolean => {
  if (value === undefined) return false
  if (value.isNull === true) return true
  return (
    value.lin !== undefined &&
    isConstant(value.lin) &&
    (value.lin.constant < 0 || String(value.lin.constant) === errorValue(walk))
  )
}

const leak = (walk: Walk, node: Node, key: string, state: State): void => {
  const { block } = state.cell(key)
  const file = block?.kind === "file"
  const release = `${file ? "fclose" : "free"}(${key});`
  // The same exit may also be reached where the allocation itself failed: free(NULL) does nothing, fclose(NULL) crashes.
  const safe = file && !state.flags.has(`nn:${key}`) ? `if (${key}) ${release}` : release
  walk.report({
    cwe: file ? 775 : 401,
    severity: "medium",
    message: `${key} is lost when the function returns here`,
    node,
    fixes: node.type === "return_statement" ? [releaseBefore(walk, node, key, safe)] : []
  })
}

/** `return f(h)` needs its value before h is released. */
const releaseBefore = (walk: Walk, node: Node, key: string, release: string): ReadonlyArray<Edit> => {
  const [value] = node.children
  const holder = enclosing(node, "if_statement")
  const condition = holder === undefined ? undefined : part(holder, "condition")
  void condition
  if (value === undefined || !findAll(value, "identifier").some((n) => n.text === key))
    return before(walk.source, node, release)
  const { returns } = walk.header
  const type = `${returns.name} ${"*".repeat(returns.depth)}`
  const name = walk.names.has("result") ? "outcome" : "result"
  return [
    ...before(walk.source, node, `${type}${returns.depth > 0 ? "" : ""}${name} = ${value.text}; ${release}`),
    replaceNode(value, name)
  ]
}

const dangling = (walk: Walk, node: Node, key: string, freed: Node, value: Value | undefined, state: State): void => {
  if (value !== undefined && value.key === key && value.type.depth > 0) {
    walk.report({ cwe: 416, severity: "critical", message: `${key} is returned after it was freed`, node, fixes: [] })
    return
  }
  const original = part(freed, "arguments")?.children[0]
  const lost = key.startsWith("dangling#")
  const freedPlace = original === undefined ? key : norm(original)
  // A local that was freed dies with the function; the place it was read from does not.
  const place = lost ? freedPlace : key
  if (!/^\*|->|\.|\[/.test(place)) return
  const root = /[A-Za-z_]\w*/.exec(place)?.[0] ?? ""
  if (state.cell(root).freed !== undefined && !lost) return
  if (!walk.isParam(root) && (!walk.closed || place !== freedPlace)) return
  if (!walk.isParam(root) && state.cell(root).alias === undefined && state.cell(root).owned === true) return
  walk.report({
    cwe: 415,
    severity: "high",
    message: `${place} still points to freed memory when the function returns`,
    node: freed,
    fixes: [after(walk.source, freed, `${place} = NULL;`)]
  })
}

/** Success is reported although what the caller is given may be NULL. */
const hollow = (walk: Walk, node: Node, key: string, value: Value | undefined, state: State): void => {
  const given = /^\*|->/.test(key) && walk.isParam(/\w+/.exec(key)?.[0] ?? "")
  const success = value?.lin !== undefined && isConstant(value.lin) && !isFailure(walk, value)
  const checked = [key, state.cell(key).alias].some((name) => state.flags.has(`nn:${name}`))
  if (!given || !success || checked) return
  walk.report({
    cwe: 476,
    severity: "medium",
    message: `success is returned although ${key} may be NULL`,
    node,
    fixes: [before(walk.source, node, `if (!${key}) ${errorReturn(walk, state)}`)]
  })
}

const unterminated = (walk: Walk, key: string, call: Node, state: State): void => {
  const args = part(call, "arguments")?.children ?? []
  const type = walk.typeOf(key)
  const cap = capacities(walk, { node: call, type, key }, constant(0), true, state)[0]
  const limit = cap === undefined ? undefined : render(cap.form)
  if (!walk.closed && args[2] === undefined) return
  walk.report({
    cwe: 170,
    severity: "high",
    message: `strncpy may leave ${key} without its final zero`,
    node: call,
    fixes: limit === undefined ? [] : [unterminatedFix(call, limit, walk.source)]
  })
}

const unchecked = (
  walk: Walk,
  key: string,
  pending: { readonly call: string; readonly least: number; readonly node: Node },
  state: State
): void => {
  const proof = walk.prove(minus(constant(pending.least), atom(pending.call)), state)
  if (proof !== undefined) {
    walk.credit(proof, 252, "checked result", `success is reported only when ${key} was set`)
    return
  }
  const { node } = pending
  const statement = statementOf(node)
  const test = `${node.text} != ${pending.least}`
  const comparison = node.parent?.type === "binary_expression" ? node.parent : undefined
  const alone = statement.type === "expression_statement" && bare(statement.children[0] ?? statement) === node
  walk.report({
    cwe: 252,
    severity: "medium",
    message: `success is returned although ${node.children[0]?.text ?? "the call"} may have set less than ${pending.least} values`,
    node,
    fixes: alone
      ? [[replaceNode(statement, `if (${test}) ${errorReturn(walk, state)}`)]]
      : comparison !== undefined && statement.type === "if_statement"
        ? [[replaceNode(comparison, test)]]
        : []
  })
}
