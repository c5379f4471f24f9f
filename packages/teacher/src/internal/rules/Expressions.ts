/** Evaluates C expressions over a state: values as linear forms, effects on the state, sinks reported on the way. */

import { arithmetic, division } from "./Arithmetic.ts"
import { bare, findAll, type Node, norm, part } from "./Ast.ts"
import { applyCall } from "./Calls.ts"
import { branch, settle } from "./Conditions.ts"
import { atom, constant, isConstant, type Linear, minus, plus, shift, times } from "./Linear.ts"
import { dereference, nullSink, objectSize } from "./Pointers.ts"
import { bounds, readVariable } from "./Sinks.ts"
import { characterCode, literalText, namedConstants, sizeOf } from "./Sizes.ts"
import { type Cell, join, mentions, type State } from "./State.ts"
import { type CType, charPointer, declared, intType, pointeeBytes, typeFrom, typeWords, unknownType } from "./Types.ts"
import type { Value, Walk } from "./Walk.ts"

const isInteger = (type: CType): boolean => type.depth === 0 && (type.base === "int" || type.base === "char")
const place = (node: Node, type: CType): Value => {
  const key = norm(node)
  return type.depth === 0 && type.base !== "float" && type.base !== "struct"
    ? { node, type, key, lin: atom(key) }
    : { node, type, key }
}

export const evaluate = (walk: Walk, node: Node, state: State): Value => {
  switch (node.type) {
    case "parenthesized_expression": {
      const inner = node.children[0]
      return inner === undefined ? { node, type: unknownType } : evaluate(walk, inner, state)
    }
    case "number_literal": {
      const value = Number(node.text.replace(/[uUlLfF]+$/, ""))
      return Number.isInteger(value)
        ? { node, type: intType, lin: constant(value) }
        : { node, type: { ...intType, base: "float" } }
    }
    case "char_literal":
      return { node, type: { ...intType, base: "char" }, lin: constant(characterCode(node.text)) }
    case "string_literal":
    case "concatenated_string":
      return { node, type: charPointer, literal: literalText(node) ?? "" }
    case "null":
      return { node, type: { ...unknownType, depth: 1 }, isNull: true }
    case "true":
    case "false":
      return { node, type: intType, lin: constant(node.type === "true" ? 1 : 0) }
    case "identifier": {
      const value = namedConstants[node.text]
      if (value !== undefined && !walk.names.has(node.text)) return { node, type: intType, lin: constant(value) }
      readVariable(walk, node, node.text, state)
      return place(node, walk.typeOf(node.text))
    }
    case "sizeof_expression":
      return sizeOf(walk, node)
    case "cast_expression":
      return cast(walk, node, state)
    case "field_expression":
    case "subscript_expression":
      return readPlace(walk, node, state)
    case "pointer_expression":
      return node.op === "&" ? addressOf(walk, node, state) : readPlace(walk, node, state)
    case "unary_expression": {
      const inner = node.children[0]
      if (inner === undefined) return { node, type: unknownType }
      if (node.op === "!") return settle(walk, node, state)
      const value = evaluate(walk, inner, state)
      return node.op === "-" && value.lin !== undefined
        ? { node, type: value.type, lin: times(value.lin, -1) }
        : { node, type: value.type }
    }
    case "update_expression":
      return update(walk, node, state)
    case "assignment_expression":
      return assignment(walk, node, state)
    case "binary_expression":
      return binary(walk, node, state)
    case "comma_expression": {
      const [first, last] = node.children
      if (first !== undefined) evaluate(walk, first, state)
      return last === undefined ? { node, type: unknownType } : evaluate(walk, last, state)
    }
    case "conditional_expression":
      return conditional(walk, node, state)
    case "call_expression":
      return applyCall(walk, node, state)
    default: {
      for (const child of node.children)
        if (!child.type.endsWith("type") && child.type !== "type_descriptor") evaluate(walk, child, state)
      return { node, type: unknownType }
    }
  }
}

const cast = (walk: Walk, node: Node, state: State): Value => {
  const type = part(node, "type")
  const inner = part(node, "value")
  if (inner === undefined) return { node, type: unknownType }
  const value = evaluate(walk, inner, state)
  if (type === undefined) return value
  const to = typeFrom(type.text.replace(/\*/g, ""), findAll(type, "abstract_pointer_declarator").length)
  return { ...value, node, type: to }
}

const addressOf = (walk: Walk, node: Node, state: State): Value => {
  const inner = node.children[0]
  if (inner === undefined) return { node, type: unknownType }
  const target = locate(walk, inner, state, false)
  return { node, type: { ...target.type, depth: target.type.depth + 1 }, key: `&${target.key ?? ""}` }
}

/** Evaluates a place without reading it: the left of an assignment, an operand of & or ++. */
export const locate = (walk: Walk, node: Node, state: State, write: boolean, stored?: Value): Value => {
  const inner = bare(node)
  if (inner.type === "identifier") return place(inner, walk.typeOf(inner.text))
  if (inner.type === "field_expression") {
    const [base] = inner.children
    if (base === undefined) return { node: inner, type: unknownType }
    const value = inner.op === "." ? locate(walk, base, state, false) : evaluate(walk, base, state)
    if (inner.op !== "." && value.key !== undefined) dereference(walk, inner, value.key, state)
    return place(inner, unknownType)
  }
  if (inner.type === "subscript_expression") {
    const [base, index] = inner.children
    if (base === undefined || index === undefined) return { node: inner, type: unknownType }
    const array = evaluate(walk, base, state)
    const at = evaluate(walk, index, state)
    if (array.key !== undefined) dereference(walk, inner, array.key, state)
    else if (array.call !== undefined) nullSink(walk, inner, array.call.atom, state)
    bounds(walk, { node: inner, base: array, index: at, write, stored }, state)
    return place(inner, { ...array.type, depth: array.type.depth - 1, isConst: false })
  }
  if (inner.type === "pointer_expression" && inner.op !== "&") {
    const [base] = inner.children
    if (base === undefined) return { node: inner, type: unknownType }
    const value = evaluate(walk, base, state)
    const sum = bare(base)
    if (value.key !== undefined) dereference(walk, inner, value.key, state)
    else if (sum.type === "binary_expression" && (sum.op === "+" || sum.op === "-")) {
      const [left, right] = sum.children.map((c) => evaluate(walk, c, state.copy()))
      if (left?.type.depth && right?.lin !== undefined) {
        if (left.key !== undefined) dereference(walk, inner, left.key, state)
        const index = sum.op === "+" ? right : { ...right, lin: times(right.lin, -1) }
        bounds(walk, { node: inner, base: left, index, write, stored }, state)
      }
    }
    return place(inner, { ...value.type, depth: value.type.depth - 1, isConst: false })
  }
  return evaluate(walk, inner, state)
}

const readPlace = (walk: Walk, node: Node, state: State): Value => {
  const value = locate(walk, node, state, false)
  if (value.key !== undefined) readVariable(walk, node, value.key, state)
  return value
}

const update = (walk: Walk, node: Node, state: State): Value => {
  const inner = node.children[0]
  if (inner === undefined) return { node, type: unknownType }
  const isMember = bare(inner).type !== "identifier"
  const target = isMember ? locate(walk, inner, state, true) : evaluate(walk, inner, state)
  const by = node.op === "++" ? 1 : -1
  const prefix = node.start < inner.start
  if (target.key === undefined) return target
  if (target.type.depth > 0) {
    assigned(state, target.key)
    return { node, type: target.type, key: target.key }
  }
  state.shifted(target.key, by)
  return target.lin === undefined ? target : { ...target, node, lin: prefix ? target.lin : shift(target.lin, -by) }
}

/** A place got a new value: everything that depended on the old one is forgotten. */
export const assigned = (state: State, key: string): void => {
  if (state.cell(key).freed === undefined)
    for (const [name, cell] of state.cells)
      if (cell.freed !== undefined && name !== key && !name.startsWith("dangling#") && mentions(name, key))
        state.cells.set(`dangling#${cell.freed.start}`, { freed: cell.freed })
  state.forget(key)
  state.cells.delete(key)
  for (const [name, cell] of state.cells)
    if (cell.alias === key) {
      const { alias: _alias, ...rest } = cell
      state.cells.set(name, rest)
    }
}

const assignment = (walk: Walk, node: Node, state: State): Value => {
  const left = part(node, "left")
  const right = part(node, "right")
  if (left === undefined || right === undefined) return { node, type: unknownType }
  if (node.op !== "=" && node.op !== "") return compound(walk, node, left, right, state)
  const value = evaluate(walk, right, state)
  const target = locate(walk, left, state, true, value)
  store(walk, target, value, state)
  return { ...target, node, ...(value.call === undefined ? {} : { call: value.call }) }
}

const compound = (walk: Walk, node: Node, left: Node, right: Node, state: State): Value => {
  const value = evaluate(walk, right, state)
  const old = evaluate(walk, left, state)
  const op = node.op.slice(0, -1)
  if (op === "/" || op === "%") division(walk, node, value, state)
  else if (op === "+" || op === "-" || op === "*") arithmetic(walk, node, op, old, value, state)
  const target = locate(walk, left, state, true)
  if (target.key === undefined) return target
  if (value.lin !== undefined && isConstant(value.lin) && (op === "+" || op === "-") && target.type.depth === 0)
    state.shifted(target.key, op === "+" ? value.lin.constant : -value.lin.constant)
  else assigned(state, target.key)
  return { ...target, node }
}

/** `target = value`: what is known of the value is now known of the target. */
export const store = (walk: Walk, target: Value, value: Value, state: State): void => {
  const { key } = target
  if (key === undefined) return
  const source = value.key
  const pointerish = target.type.depth > 0 || value.type.depth > 0
  const taken: Cell = source === undefined || !pointerish ? {} : state.cell(source)
  const nonNull = source === undefined ? undefined : state.flags.get(`nn:${source}`)
  const knowsNonNull = source !== undefined && state.flags.has(`nn:${source}`)
  const own = value.lin?.terms.get(key)
  if (own === 1 && value.lin !== undefined && value.lin.terms.size === 1) {
    state.shifted(key, value.lin.constant)
    return
  }
  assigned(state, key)
  const isLocal = /^[A-Za-z_]\w*$/.test(key) && walk.names.has(key) && !walk.isParam(key)
  if (value.call !== undefined) {
    const made = state.cell(value.call.atom)
    state.cells.set(key, { ...made, owned: made.owned === true && isLocal })
    objectSize(walk, target, state)
  } else if (source !== undefined && pointerish && source !== key) {
    state.cells.set(key, { ...taken, owned: taken.owned === true && isLocal, alias: source })
    if (taken.owned === true) state.update(source, { owned: false })
    if (knowsNonNull) state.flag(`nn:${key}`, nonNull ?? null)
  }
  if (value.isNull === true || (target.type.depth > 0 && value.lin?.constant === 0 && isConstant(value.lin)))
    state.flag(`null:${key}`, null)
  if (
    value.lin !== undefined &&
    own === undefined &&
    target.lin !== undefined &&
    (isInteger(target.type) || target.type.base === "unknown")
  ) {
    const difference = minus(target.lin, value.lin)
    state.learn(difference, null)
    state.learn(times(difference, -1), null)
  }
  wroteElement(target, value, state)
}

/** `s[i] = …` fills a buffer; writing a zero ends the text there, and `s[0] = 0` makes it empty. */
const wroteElement = (target: Value, value: Value, state: State): void => {
  const element = bare(target.node)
  if (element.type !== "subscript_expression" && element.type !== "pointer_expression") return
  const [base] = element.children
  if (base === undefined) return
  const key = norm(base)
  const zero = value.lin !== undefined && isConstant(value.lin) && value.lin.constant === 0
  const { unset: _unset, unterminated, ...rest } = state.cell(key)
  state.cells.set(key, zero || unterminated === undefined ? rest : { ...rest, unterminated })
  state.forget(`strlen(${key})`)
  if (zero && /\[0\]$|^\*/.test(norm(element))) state.learn(atom(`strlen(${key})`), null)
}

const binary = (walk: Walk, node: Node, state: State): Value => {
  const [left, right] = node.children
  if (left === undefined || right === undefined) return { node, type: unknownType }
  if (node.op === "&&" || node.op === "||") return settle(walk, node, state)
  const a = evaluate(walk, left, state)
  const b = evaluate(walk, right, state)
  if (/^([<>]=?|[=!]=)$/.test(node.op)) {
    return { node, type: intType, lin: atom(norm(node)) }
  }
  const type = resultType(a.type, b.type)
  if (node.op === "/" || node.op === "%") division(walk, node, b, state)
  if (node.op === "+" || node.op === "-" || node.op === "*") arithmetic(walk, node, node.op, a, b, state)
  const lin =
    a.lin === undefined || b.lin === undefined || type.depth > 0 ? undefined : combine(node.op, a.lin, b.lin, node)
  return lin === undefined ? { node, type } : { node, type, lin }
}

const resultType = (a: CType, b: CType): CType => {
  if (a.depth > 0 || b.depth > 0) return a.depth > 0 ? a : b
  if (a.base === "float" || b.base === "float") return a.base === "float" ? a : b
  return {
    ...intType,
    unsigned: a.unsigned || b.unsigned,
    wide: a.wide || b.wide,
    name: a.wide ? a.name : b.wide ? b.name : "int"
  }
}

/** The linear form of `a op b`; products and quotients of unknowns become atoms of their own. */
const combine = (op: string, a: Linear, b: Linear, node: Node): Linear | undefined => {
  if (op === "+") return plus(a, b)
  if (op === "-") return minus(a, b)
  if (op === "*") return isConstant(a) ? times(b, a.constant) : isConstant(b) ? times(a, b.constant) : atom(norm(node))
  if (op === "/")
    return isConstant(a) && isConstant(b) && b.constant !== 0
      ? constant(Math.trunc(a.constant / b.constant))
      : atom(norm(node))
  return atom(norm(node))
}

const conditional = (walk: Walk, node: Node, state: State): Value => {
  const condition = part(node, "condition")
  const yes = part(node, "consequence")
  const no = part(node, "alternative")
  if (condition === undefined || no === undefined) return { node, type: unknownType }
  const [whenTrue, whenFalse] = branch(walk, condition, state, { node, yes: "value", no: "value" })
  const a = yes === undefined ? undefined : evaluate(walk, yes, whenTrue)
  const b = evaluate(walk, no, whenFalse)
  const joined = join(whenTrue, whenFalse)
  if (joined !== null) {
    state.facts = joined.facts
    state.flags = joined.flags
    state.cells = joined.cells
  }
  const value = a?.isNull === true || a === undefined ? b : a
  const { lin: _lin, call: _call, ...rest } = value
  const either = [a, b].find((v) => v?.key !== undefined && state.cell(v.key).owned === true)
  return { ...rest, node, ...(either?.key === undefined ? {} : { key: either.key }) }
}

/** Declares the variables of a declaration and evaluates their initial values, in order. */
export const declare = (walk: Walk, node: Node, state: State): void => {
  const words = typeWords(node)
  for (const declarator of node.children.filter((c) => c.field === "declarator")) {
    const initial = part(declarator, "value")
    const target = declarator.type === "init_declarator" ? part(declarator, "declarator") : declarator
    const found = target === undefined ? undefined : declared(words, target)
    if (found === undefined) continue
    walk.names.set(found.name, { ...found, node: declarator })
    const value =
      initial === undefined || initial.type === "initializer_list" ? undefined : evaluate(walk, initial, state)
    assigned(state, found.name)
    if (found.array) {
      if (found.size !== undefined) {
        const size = evaluate(walk, found.size, state).lin
        const each = pointeeBytes(found.type)
        if (size !== undefined)
          state.update(found.name, {
            block: {
              elements: size,
              bytes: each === undefined ? undefined : times(size, each),
              node: declarator,
              kind: "array"
            }
          })
      }
      state.flag(`nn:${found.name}`, null)
      if (initial === undefined && found.type.base === "char" && !/\b(static|extern)\b/.test(words))
        state.update(found.name, { unset: declarator })
    } else if (initial === undefined) {
      if (found.type.base !== "struct" || found.type.depth > 0)
        if (!/\b(static|extern)\b/.test(words)) state.update(found.name, { uninitialised: declarator })
    } else if (value !== undefined) {
      store(walk, place({ ...declarator, text: found.name, type: "identifier" }, found.type), value, state)
    }
  }
}
