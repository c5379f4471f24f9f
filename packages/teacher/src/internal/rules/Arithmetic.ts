/** Sums, products, differences and quotients of values that a caller chooses. */
import { bare, enclosing, type Node, norm } from "./Ast.ts"
import { render } from "./Capacity.ts"
import { type Edit, replaceNode } from "./Fix.ts"
import { guard } from "./Fixes.ts"
import { atom, constant, isConstant, type Linear, minus, shift, show, times } from "./Linear.ts"
import type { Guard, State } from "./State.ts"
import { isSuspect, isVariable } from "./Suspects.ts"
import type { Value, Walk } from "./Walk.ts"

export const division = (walk: Walk, node: Node, divisor: Value, state: State): void => {
  const { lin } = divisor
  if (lin === undefined || divisor.type.base === "float" || divisor.type.depth > 0) return
  if (isConstant(lin) && lin.constant !== 0) return
  const credit = (guards: ReadonlyArray<Guard | null>): void =>
    walk.credit(guards, 369, "divisor check", "the divisor is never zero here")
  const flag = `nz:${show(lin)}`
  if (state.flags.has(flag)) {
    credit([state.flags.get(flag) ?? null])
    return
  }
  const proof = walk.prove(shift(times(lin, -1), 1), state) ?? walk.prove(shift(lin, 1), state)
  if (proof !== undefined) {
    credit(proof)
    return
  }
  // A shifted one is a power of two.
  if ([...lin.terms.keys()].some((name) => name.startsWith("sizeof") || name.includes("/") || /^1[uUlL]*<</.test(name)))
    return
  if (!walk.wants(369) && !isSuspect(walk, lin)) return
  if (!walk.closed && !isVariable(walk, lin)) return
  const text = render(lin)
  walk.report({
    cwe: 369,
    severity: "medium",
    message: `${norm(node)} divides by ${text ?? "a value"} that may be zero`,
    node,
    fixes: text === undefined ? [] : [guard(walk, node, `${text} == 0`, state)]
  })
}

/** Sums and products of ints that a caller chooses must be checked against the range of int. */
export const arithmetic = (walk: Walk, node: Node, op: string, a: Value, b: Value, state: State): void => {
  if (a.lin === undefined || b.lin === undefined) return
  if (op === "-") {
    wrapAround(walk, node, a, b, state)
    return
  }
  if (op === "+" && isHalfDifference(a, b))
    walk.construct(node, 190, "difference first", "half of the difference cannot overflow")
  for (const v of [a, b])
    if (v.type.wide && v.node.type === "cast_expression")
      walk.construct(node, 190, "wider type", "the operation is done in 64 bits")
  for (const v of [a, b])
    if (v.type.depth > 0 || v.type.wide || v.type.unsigned || v.type.base !== "int" || isConstant(v.lin ?? constant(0)))
      return
  if (![a.lin, b.lin].every((lin) => isRaw(walk, lin)) && !accumulates(walk, op, a, b)) return
  if (enclosing(node, "subscript_expression") !== undefined) return
  const [x, y] = [norm(a.node), norm(b.node)]
  const proof =
    op === "+"
      ? walk.prove(shift({ ...minus(a.lin, times(b.lin, -1)) }, -2147483647), state)
      : productProof(walk, a, b, state)
  if (proof !== undefined) {
    walk.credit(proof, 190, "overflow precheck", `${x} ${op} ${y} stays within int`)
    return
  }
  const limit = op === "+" ? `${y} > 0 && ${x} > INT_MAX - ${y}` : `${y} != 0 && ${x} > INT_MAX / ${y}`
  walk.report({
    cwe: 190,
    severity: "high",
    message: `${x} ${op} ${y} can overflow int`,
    node,
    fixes: [...(op === "+" ? withoutFailure(walk, node, x, y) : []), guard(walk, node, limit, state)]
  })
}

/** Where the task knows no failure value: half of a sum by way of the difference, or a sum in a wider type. */
const withoutFailure = (walk: Walk, node: Node, x: string, y: string): ReadonlyArray<ReadonlyArray<Edit>> => {
  if (!walk.closed || /-\d|error|NULL/.test(walk.request)) return []
  const half = node.parent?.type === "parenthesized_expression" ? node.parent.parent : null
  if (half?.type === "binary_expression" && half.op === "/" && norm(half.children[1] ?? half) === "2")
    return [[replaceNode(half, `${x} + (${y} - ${x}) / 2`)]]
  const holder = node.parent
  const type = holder?.type === "init_declarator" ? holder.parent?.children[0] : undefined
  return type?.text === "int" ? [[replaceNode(type, "long"), replaceNode(node, `(long)${x} + ${y}`)]] : []
}

/** `a + (b - a) / 2` */
const isHalfDifference = (a: Value, b: Value): boolean => {
  const half = bare(b.node)
  const difference = half.type === "binary_expression" && half.op === "/" ? half.children[0] : undefined
  const inner = difference === undefined ? undefined : bare(difference)
  return inner?.type === "binary_expression" && inner.op === "-" && norm(inner.children[1] ?? inner) === norm(a.node)
}

/** A local int that gathers array elements in a loop. */
const accumulates = (walk: Walk, op: string, a: Value, b: Value): boolean => {
  const element = bare(b.node)
  return (
    op === "+" &&
    a.key !== undefined &&
    walk.names.has(a.key) &&
    walk.loopVariables.some((set) => set.has(a.key ?? "")) &&
    (element.type === "subscript_expression" || element.type === "pointer_expression") &&
    walk.closed
  )
}

/** `a - b` of unsigned values that a caller chooses becomes huge when b is the larger one. */
const wrapAround = (walk: Walk, node: Node, a: Value, b: Value, state: State): void => {
  if (a.lin === undefined || b.lin === undefined || isConstant(b.lin) || isConstant(a.lin)) return
  if (!(a.type.unsigned && b.type.unsigned) || a.type.depth > 0 || b.type.depth > 0) return
  if (![a.lin, b.lin].every((lin) => isRaw(walk, lin))) return
  const [x, y] = [norm(a.node), norm(b.node)]
  const proof = walk.prove(minus(b.lin, a.lin), state)
  if (proof !== undefined) {
    walk.credit(proof, 191, "underflow precheck", `${x} - ${y} stays at 0 or above`)
    return
  }
  walk.report({
    cwe: 191,
    severity: "high",
    message: `${x} - ${y} can wrap around below 0`,
    node,
    fixes: [guard(walk, node, `${y} > ${x}`, state)]
  })
}

/** Made of parameters, or of memory that a parameter points to, and of nothing a loop counts. */
const isRaw = (walk: Walk, lin: Linear): boolean =>
  [...lin.terms.keys()].every((name) => {
    const root = /[A-Za-z_]\w*/.exec(name)?.[0] ?? ""
    return (
      /^\**[A-Za-z_]\w*((->|\.)\w+)*$/.test(name) &&
      walk.isParam(root) &&
      !walk.loopVariables.some((set) => set.has(name))
    )
  })

const productProof = (walk: Walk, a: Value, b: Value, state: State): ReadonlyArray<Guard | null> | undefined => {
  if (a.lin === undefined || b.lin === undefined) return undefined
  for (const [x, y] of [[a, b] as const, [b, a] as const]) {
    if (x.lin === undefined) continue
    for (const most of ["INT_MAX", "2147483647"]) {
      const proof = walk.prove(minus(x.lin, atom(`${most}/${norm(y.node)}`)), state)
      if (proof !== undefined) return proof
    }
  }
  for (let most = 1024; most <= 32768; most *= 2) {
    const [p, q] = [a.lin, b.lin].map((lin) => walk.prove(minus(lin, constant(most)), state))
    if (p !== undefined && q !== undefined) return [...p, ...q]
  }
  return undefined
}
