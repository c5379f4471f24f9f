/** Sinks other than calls: subscripts, dereferences, division, overflowing arithmetic, reads of variables. */
import { bare, enclosing, loops, type Node, norm, part, statementOf } from "./Ast.ts"
import { type Capacity, capacities, entryForm, render } from "./Capacity.ts"
import { after, before, type Edit, replaceNode } from "./Fix.ts"
import { errorReturn, guard } from "./Fixes.ts"
import { atom, constant, isConstant, type Linear, minus, shift, show, times } from "./Linear.ts"
import type { Guard, State } from "./State.ts"
import type { CType } from "./Types.ts"
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

/** Constants of a project's headers look like names; only what is declared here, or reached from it, varies. */
const isVariable = (walk: Walk, lin: Linear): boolean =>
  [...lin.terms.keys()].every((name) => walk.names.has(/[A-Za-z_]\w*/.exec(name)?.[0] ?? ""))

/** In code out of a larger project only an index that a caller controls, with nothing known about it, is a finding. */
const isSuspect = (walk: Walk, lin: Linear): boolean => [...lin.terms.keys()].some((name) => walk.isParam(name))

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
  const at = entry === undefined ? access.node : (walk.header.body.children[0] ?? access.node)
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

/** A pointer must not be NULL, freed or unset when it is followed. */
export const dereference = (walk: Walk, node: Node, key: string, state: State): void => {
  const cell = state.cell(key)
  if (cell.freed !== undefined)
    walk.report({
      cwe: 416,
      severity: "critical",
      message: `${key} is used after it was freed`,
      node,
      fixes: afterFree(walk, node, cell.freed)
    })
  const checked = state.flags.get(`nn:${key}`)
  if (state.flags.has(`nn:${key}`)) {
    walk.credit([checked ?? null], 476, "null check", `${key} is followed only when it points somewhere`)
    return
  }
  if (cell.nullable !== undefined) nullSink(walk, node, key, state)
  else if (walk.isParam(/^\w+/.exec(key)?.[0] ?? "") && !walk.bareParams.has(key)) walk.bareParams.set(key, node)
}

export const nullSink = (walk: Walk, node: Node, key: string, state: State): void => {
  const from = state.cell(key).nullable
  if (from === undefined) return
  walk.report({
    cwe: 476,
    severity: "high",
    message: `${key} may be NULL when ${norm(node).slice(0, 40)} follows it`,
    node,
    fixes: [
      key.includes("()@")
        ? nameResult(walk, node, from, state)
        : after(walk.source, from, `if (!${key}) ${errorReturn(walk, state, key)}`)
    ]
  })
}

/** `strchr(s, c)[1]`: gives the result a name, so that it can be looked at. */
const nameResult = (walk: Walk, use: Node, call: Node, state: State): ReadonlyArray<Edit> => {
  const name = freshName(walk, "found")
  const type = /^(str|mem|getenv)/.test(call.children[0]?.text ?? "") ? "const char *" : "void *"
  const text = `${type}${name} = ${call.text};\n  if (!${name}) ${errorReturn(walk, state)}`
  return [...before(walk.source, use, text), replaceNode(call, name)]
}

/** Reads what is needed before the release, or moves the release behind the last use. */
const afterFree = (walk: Walk, use: Node, freed: Node): ReadonlyArray<ReadonlyArray<Edit>> => {
  const release = statementOf(freed)
  const loop = enclosing(use, "for_statement")
  const update = loop === undefined ? undefined : part(loop, "update")
  if (loop !== undefined && update !== undefined && update.start <= use.start && use.end <= update.end)
    return inUpdate(walk, loop, update)
  const user = statementOf(use)
  const parent = release.parent
  if (release === user || parent === null || user.parent !== parent) return []
  const value = assignedValue(user)
  const saved = freshName(walk, "saved")
  const fixes: Array<ReadonlyArray<Edit>> = []
  if (value !== undefined && value.start <= use.start && use.end <= value.end) {
    const type = user.type === "return_statement" ? walk.header.returns : typeOfTarget(walk, user)
    if (type !== undefined)
      fixes.push([
        ...before(walk.source, release, `${typeText(type)}${saved} = ${value.text};`),
        replaceNode(value, saved)
      ])
  }
  const remove: Edit = { start: release.start, end: release.end, text: "" }
  if (user.type !== "return_statement") fixes.push([remove, ...after(walk.source, user, release.text)])
  return fixes
}

const typeText = (type: CType): string => `${type.name} ${"*".repeat(type.depth)}`

/** The right side of `x = …;`, `T x = …;` or `return …;`. */
const assignedValue = (statement: Node): Node | undefined => {
  const [first] = statement.children
  if (statement.type === "return_statement") return first
  const holder = statement.children.find((c) => c.type === "assignment_expression" || c.type === "init_declarator")
  return holder === undefined ? undefined : (part(holder, "right") ?? part(holder, "value"))
}

const typeOfTarget = (walk: Walk, statement: Node): CType | undefined => {
  const holder = statement.children.find((c) => c.type === "assignment_expression" || c.type === "init_declarator")
  const target = holder === undefined ? undefined : (part(holder, "left") ?? part(holder, "declarator"))
  return target === undefined ? undefined : walk.names.get(target.text.replace(/[*\s]/g, ""))?.type
}

/** `for (…; p; p = p->next) free(p);`: the next one is read before the release. */
const inUpdate = (walk: Walk, loop: Node, update: Node): ReadonlyArray<ReadonlyArray<Edit>> => {
  const body = part(loop, "body")
  const left = part(update, "left")
  const right = part(update, "right")
  const type = left === undefined ? undefined : walk.names.get(left.text)?.type
  if (body === undefined || left === undefined || right === undefined || type === undefined) return []
  const saved = freshName(walk, "saved")
  const inner = body.type === "compound_statement" ? body.text.slice(1, -1).trim() : body.text
  const text = `{ ${typeText(type)}${saved} = ${right.text}; ${inner} ${left.text} = ${saved}; }`
  return [[{ start: update.start, end: update.end, text: "" }, replaceNode(body, text)]]
}

export const freshName = (walk: Walk, wanted: string): string => {
  let name = wanted
  for (let n = 2; walk.names.has(name) || walk.source.includes(name); n++) name = `${wanted}${n}`
  return name
}

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
    fixes: [guard(walk, node, limit, state)]
  })
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

/** A block for one struct must have the size of the struct, not of a pointer or an int. */
export const objectSize = (walk: Walk, target: Value, state: State): void => {
  const block = target.key === undefined ? undefined : state.cell(target.key).block
  const { type } = target
  if (block?.bytes === undefined || block.kind !== "heap" || type.depth !== 1) return
  if ((type.base !== "struct" && type.base !== "unknown") || type.name === "" || !isConstant(block.bytes)) return
  const size = part(block.node, "arguments")?.children.at(-1)
  if (size === undefined || (!walk.closed && bare(size).type !== "sizeof_expression")) return
  walk.report({
    cwe: 131,
    severity: "high",
    message: `${target.key ?? "the block"} is allocated with ${block.bytes.constant} bytes, not with the size of ${type.name}`,
    node: block.node,
    fixes: [[replaceNode(size, `sizeof(*${target.key ?? ""})`)]]
  })
}
