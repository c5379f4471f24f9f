/**
 * Conditions: what is known when one is true, and when it is false.
 *
 * A comparison becomes linear facts, a pointer test becomes `nn:` or `null:`, a search over a text (`strpbrk`, `strchr`,
 * `strstr`) becomes `no:<text>:<what was not found>`. Each fact remembers the comparison that gave it.
 */
import { bare, type Node, norm } from "./Ast.ts"
import { evaluate } from "./Expressions.ts"
import { atom, constant, isConstant, type Linear, minus, shift, show, soleAtom, times } from "./Linear.ts"
import { type Guard, join, type State } from "./State.ts"
import { intType } from "./Types.ts"
import type { Value, Walk } from "./Walk.ts"

/** Where a condition stands, and how its two outcomes are used. */
export interface Site {
  readonly node: Node
  readonly yes: Guard["kind"]
  readonly no: Guard["kind"]
}

const flip = (site: Site): Site => ({ node: site.node, yes: site.no, no: site.yes })

/** The states when the condition is true and when it is false; `state` itself is left as it was. */
export const branch = (walk: Walk, node: Node, state: State, site: Site): readonly [State, State] => {
  if (node.type === "parenthesized_expression" && node.children[0] !== undefined)
    return branch(walk, node.children[0], state, site)
  const [left, right] = node.children
  if (node.type === "unary_expression" && node.op === "!" && left !== undefined) {
    const [t, f] = branch(walk, left, state, flip(site))
    return [f, t]
  }
  if (node.type === "binary_expression" && left !== undefined && right !== undefined) {
    if (node.op === "&&") {
      const [lt, lf] = branch(walk, left, state, site)
      const [rt, rf] = branch(walk, right, lt, site)
      const f = join(lf, rf) ?? rf
      if (isSignCheck(left)) for (const fact of rf.facts) if (!lt.facts.includes(fact)) f.facts.push(fact)
      return [rt, f]
    }
    if (node.op === "||") {
      const [lt, lf] = branch(walk, left, state, site)
      const [rt, rf] = branch(walk, right, lf, site)
      return [join(lt, rt) ?? rt, rf]
    }
    if (/^([<>]=?|[=!]=)$/.test(node.op)) {
      const f = state.copy()
      const a = evaluate(walk, left, f)
      const b = evaluate(walk, right, f)
      const t = f.copy()
      compare(walk, node.op, a, b, t, { node: site.node, leaf: node, kind: site.yes })
      compare(walk, negated[node.op] ?? "==", a, b, f, { node: site.node, leaf: node, kind: site.no })
      return [t, f]
    }
  }
  const f = state.copy()
  const value = evaluate(walk, node, f)
  const t = f.copy()
  truth(walk, value, true, t, { node: site.node, leaf: node, kind: site.yes })
  truth(walk, value, false, f, { node: site.node, leaf: node, kind: site.no })
  return [t, f]
}

/** Evaluates a condition used as a value, for its effects. */
export const settle = (walk: Walk, node: Node, state: State): Value => {
  const [t, f] = branch(walk, node, state, { node, yes: "value", no: "value" })
  const joined = join(t, f) ?? t
  state.facts = joined.facts
  state.flags = joined.flags
  state.cells = joined.cells
  return { node, type: intType }
}

const negated: Readonly<Record<string, string>> = {
  "<": ">=",
  "<=": ">",
  ">": "<=",
  ">=": "<",
  "==": "!=",
  "!=": "=="
}

/** `x > 0 && …`: the second half may be relied on, since x ≤ 0 makes the sum or product it bounds harmless. */
const isSignCheck = (node: Node): boolean => {
  const inner = bare(node)
  const [left, right] = inner.children
  if (inner.type === "identifier" || inner.type === "field_expression") return true
  return (
    inner.type === "binary_expression" &&
    left !== undefined &&
    right !== undefined &&
    ((/^(>|>=|!=)$/.test(inner.op) && norm(right) === "0") || (/^(<|<=|!=)$/.test(inner.op) && norm(left) === "0"))
  )
}

const isZero = (value: Value): boolean =>
  value.isNull === true || (value.lin !== undefined && isConstant(value.lin) && value.lin.constant === 0)

const compare = (walk: Walk, op: string, a: Value, b: Value, state: State, guard: Guard): void => {
  if (op === "==" || op === "!=") {
    if (isZero(b) && isTestable(a)) {
      truth(walk, a, op === "!=", state, guard)
      return
    }
    if (isZero(a) && isTestable(b)) {
      truth(walk, b, op === "!=", state, guard)
      return
    }
    spanCompare(op, a, b, state, guard)
  }
  if (a.lin === undefined || b.lin === undefined) return
  const difference = minus(a.lin, b.lin)
  const natural = (v: Value): boolean =>
    v.lin !== undefined &&
    [...v.lin.terms].every(([name, c]) => c > 0 && walk.isNonNegative(name)) &&
    v.lin.constant >= 0
  const unsigned = a.type.unsigned || b.type.unsigned || [a, b].some((v) => v.lin?.terms.size === 1 && natural(v))
  const upward = (small: Value, large: Value, by: number): void => {
    state.learn(shift(minus(small.lin ?? constant(0), large.lin ?? constant(0)), by), guard)
    // Compared as unsigned, a negative value is huge: the smaller side cannot have been one.
    if (unsigned && small.lin !== undefined && !natural(small)) state.learn(times(small.lin, -1), guard)
  }
  if (op === "<" || op === "<=") upward(a, b, op === "<" ? 1 : 0)
  else if (op === ">" || op === ">=") upward(b, a, op === ">" ? 1 : 0)
  else if (op === "==") {
    state.learn(difference, guard)
    state.learn(times(difference, -1), guard)
  } else notEqual(walk, a, b, difference, state, guard)
}

const isTestable = (value: Value): boolean =>
  value.call !== undefined || value.type.depth > 0 || (value.lin !== undefined && soleAtom(value.lin) !== undefined)

const capacityName = /(cap|max|size|limit|room|capacity|total)$/i

const notEqual = (walk: Walk, a: Value, b: Value, difference: Linear, state: State, guard: Guard): void => {
  state.flag(`nz:${show(difference)}`, guard)
  state.flag(`nz:${show(times(difference, -1))}`, guard)
  const below = walk.prove(difference, state) !== undefined
  const above = walk.prove(times(difference, -1), state) !== undefined
  // `top == cap` as the full test of a container: its count never passes its capacity.
  const [x, y] = [a, b].map((v) => (v.lin === undefined ? undefined : soleAtom(v.lin)))
  if (below || (y !== undefined && capacityName.test(y))) state.learn(shift(difference, 1), guard)
  else if (above || (x !== undefined && capacityName.test(x))) state.learn(shift(times(difference, -1), 1), guard)
}

/** Records the outcome of `if (value)`. */
const truth = (walk: Walk, value: Value, holds: boolean, state: State, guard: Guard): void => {
  const { key, lin, call } = value
  if (call !== undefined) callTruth(call, holds, state, guard)
  if (value.type.depth > 0 || (call !== undefined && key !== undefined && lin === undefined)) {
    if (key !== undefined) pointerTruth(walk, value.node, key, holds, state, guard)
    return
  }
  // A member's type is unknown here: it may be a pointer as well as a number.
  if (key !== undefined && value.type.base === "unknown") pointerTruth(walk, value.node, key, holds, state, guard)
  if (key !== undefined) {
    const search = state.cell(key).search
    if (search !== undefined && !holds) excluded(search.text, search.missing, state, guard)
  }
  if (lin === undefined) return
  stringTruth(walk, value.node, holds, state, guard)
  if (!holds) {
    state.learn(lin, guard)
    state.learn(times(lin, -1), guard)
  } else {
    state.flag(`nz:${show(lin)}`, guard)
    state.flag(`nz:${show(times(lin, -1))}`, guard)
    if (walk.prove(times(lin, -1), state) !== undefined) state.learn(shift(times(lin, -1), 1), guard)
  }
}

const pointerTruth = (walk: Walk, node: Node, key: string, holds: boolean, state: State, guard: Guard): void => {
  if (walk.closed && state.flags.has(`used:${key}`)) lateCheck(walk, node, key)
  const { alias, search } = state.cell(key)
  if (holds) {
    state.flag(`nn:${key}`, guard)
    if (alias !== undefined) state.flag(`nn:${alias}`, guard)
  } else {
    state.flag(`null:${key}`, guard)
    state.update(key, { owned: false })
    if (search !== undefined) excluded(search.text, search.missing, state, guard)
  }
}

/** A pointer that is tested after it was followed: either the test is idle or it comes too late. */
const lateCheck = (walk: Walk, node: Node, key: string): void =>
  walk.report({
    cwe: 476,
    severity: "high",
    message: `${key} is compared with NULL only after it was followed`,
    node,
    fixes: []
  })

/** `*s` and `s[i]` as end-of-text tests. */
const stringTruth = (walk: Walk, node: Node, holds: boolean, state: State, guard: Guard): void => {
  const inner = bare(node)
  const [base, index] = inner.children
  if (base === undefined) return
  const length = atom(`strlen(${norm(base)})`)
  if (inner.type === "pointer_expression" && inner.op === "*" && bare(base).type === "identifier") {
    if (holds) state.learn(minus(constant(1), length), guard)
    else state.learn(length, guard)
  } else if (inner.type === "subscript_expression" && index !== undefined) {
    const filter = bare(index)
    if (filter.type === "call_expression" && filter.children[0]?.text === "strspn" && !holds) {
      state.flag(`only:${norm(base)}`, guard)
      return
    }
    const at = evaluate(walk, index, state.copy()).lin
    if (at === undefined) return
    if (isConstant(at) && at.constant === 0) {
      if (holds) state.learn(minus(constant(1), length), guard)
      else state.learn(length, guard)
    } else if (holds && walk.prove(minus(at, length), state) !== undefined)
      state.learn(shift(minus(at, length), 1), guard)
  }
}

const spanCompare = (op: string, a: Value, b: Value, state: State, guard: Guard): void => {
  for (const value of [a, b]) {
    const first = value.call?.args[0]?.key
    if (first === undefined) continue
    if (value.call?.name === "strspn" && op === "==") state.flag(`only:${first}`, guard)
    if (value.call?.name === "strcspn" && op === "==")
      excluded(first, [...(value.call.args[1]?.literal ?? "")], state, guard)
  }
}

const excluded = (text: string, missing: ReadonlyArray<string>, state: State, guard: Guard | null): void => {
  for (const what of missing) state.flag(`no:${text}:${what}`, guard)
}

/** What a search was for: the characters of a set, one character, or a substring. */
export const searchOf = (
  call: NonNullable<Value["call"]>
): { text: string; missing: ReadonlyArray<string> } | undefined => {
  const text = call.args[0]?.key
  const what = call.args[1]
  if (text === undefined || what === undefined) return undefined
  if (call.name === "strpbrk") return { text, missing: [...(what.literal ?? "")] }
  if (call.name === "strstr" && what.literal !== undefined) return { text, missing: [what.literal] }
  if ((call.name === "strchr" || call.name === "strrchr") && what.lin !== undefined && isConstant(what.lin))
    return { text, missing: [String.fromCharCode(what.lin.constant)] }
  return undefined
}

const callTruth = (call: NonNullable<Value["call"]>, holds: boolean, state: State, guard: Guard): void => {
  const search = searchOf(call)
  if (search !== undefined && !holds) excluded(search.text, search.missing, state, guard)
  if ((call.name === "strcmp" || call.name === "strcasecmp") && !holds)
    for (const arg of call.args) if (arg.key !== undefined) state.flag(`only:${arg.key}`, guard)
  if (holds) {
    state.learn(minus(constant(1), atom(call.atom)), guard)
    state.flag(`nn:${call.atom}`, guard)
  } else state.flag(`null:${call.atom}`, guard)
}
