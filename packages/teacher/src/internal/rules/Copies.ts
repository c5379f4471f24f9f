/** Functions that write a text or a block into another: the target must hold it, and a text must end inside it. */
import { bare, type Node, norm, part } from "./Ast.ts"
import type { Call } from "./Call.ts"
import { type Capacity, capacities, render, resolve } from "./Capacity.ts"
import { after, type Edit, replaceNode } from "./Fix.ts"
import { guard } from "./Fixes.ts"
import { format } from "./Inputs.ts"
import { atom, constant, isConstant, type Linear, minus, plus, shift, times } from "./Linear.ts"
import type { State } from "./State.ts"
import type { Value, Walk } from "./Walk.ts"

const lengthOf = (value: Value | undefined): Linear | undefined =>
  value === undefined
    ? undefined
    : value.literal !== undefined
      ? constant(value.literal.length)
      : value.key !== undefined
        ? atom(`strlen(${norm(value.node)})`)
        : undefined

/** The target's size in bytes, where one is known. */
const room = (call: Call): Capacity | undefined => {
  const [target] = call.args
  if (target === undefined) return undefined
  return capacities(call.walk, target, constant(0), true, call.state).find(
    (cap) => ![...cap.form.terms.keys()].some((name) => name.startsWith("held:"))
  )
}

const inBytes = (cap: Capacity, call: Call): Linear => {
  const type = call.args[0]?.type
  // A size parameter of an int array counts ints.
  const each = cap.heap || type === undefined || type.base === "char" || cap.unit !== 1 ? 1 : type.wide ? 8 : 4
  return times(cap.form, each)
}

interface Demand {
  /** Bytes written at most, final zero included. */
  readonly bytes: Linear | undefined
  readonly cwe: number
  readonly label: string
  readonly fixes: ReadonlyArray<ReadonlyArray<Edit>>
}

/** Checks `bytes ≤ room` and reports or credits. */
const demand = (call: Call, { bytes, cwe, label, fixes }: Demand): void => {
  const { walk, state, node } = call
  const [target] = call.args
  const cap = room(call)
  const held = cap === undefined ? undefined : inBytes(cap, call)
  const proof = bytes === undefined || held === undefined ? undefined : walk.prove(minus(bytes, held), state)
  if (proof !== undefined) {
    walk.credit(proof, cwe, label, `what is copied fits into ${target?.key ?? "its target"}`)
    const block = target?.key === undefined ? undefined : state.cell(target.key).block
    if (cap?.heap === true && block !== undefined && proof.every((guard) => guard === null)) {
      const size = part(block.node, "arguments")?.children[0]
      if (size !== undefined) walk.construct(size, 131, "allocation size", "counts the final zero")
    }
    return
  }
  if (!walk.closed && (held === undefined || bytes === undefined)) return
  const allocation =
    cap?.heap === true && bytes !== undefined && target?.key !== undefined ? resize(call, bytes, target.key) : []
  walk.report({
    cwe: cap?.heap === true ? 131 : cwe,
    severity: "critical",
    message: `${call.name} may write past the end of ${target?.key ?? "its target"}`,
    node,
    fixes: [...allocation, ...fixes]
  })
}

/** Makes the heap block as big as this copy needs. */
const resize = (call: Call, bytes: Linear, target: string): ReadonlyArray<ReadonlyArray<Edit>> => {
  const block = call.state.cell(target).block
  const needed = neededText(bytes, target, call.state)
  const args = block === undefined ? [] : (part(block.node, "arguments")?.children ?? [])
  const size = args.at(-1)
  if (needed === undefined || size === undefined || block === undefined) return []
  const length = call.args[2]
  const text = length !== undefined && bare(length.node).type !== "number_literal" ? length.node.text : needed
  return block.node.children[0]?.text === "malloc" ? [[replaceNode(size, text)]] : []
}

/** What `needed ≤ held` lacks: C text of the bytes a copy needs, in names known where the block was made. */
const neededText = (needed: NonNullable<Value["lin"]>, target: string, state: State): string | undefined => {
  const form = resolve(needed, state, (name) => name === `strlen(${target})`)
  return form.terms.has(`strlen(${target})`) ? undefined : render(form)
}

const lengthGuard = (call: Call, needed: string, limit: string): ReadonlyArray<Edit> =>
  guard(call.walk, call.node, `${needed} >= ${limit}`, call.state)

const limitText = (call: Call): string | undefined => {
  const [target] = call.args
  const block = target?.key === undefined ? undefined : call.state.cell(target.key).block
  if (block?.kind === "array" && target?.type.base === "char") return `sizeof(${target.key ?? ""})`
  const cap = room(call)
  return cap === undefined ? undefined : render(cap.form)
}

const fresh = (call: Call): void => {
  const key = call.args[0]?.key
  if (key === undefined) return
  call.state.forget(`strlen(${key})`)
  const { unterminated: _u, pending: _p, uninitialised: _n, unset: _s, ...rest } = call.state.cell(key)
  call.state.cells.set(key, rest)
}

const learnLength = (call: Call, length: Linear | undefined): void => {
  const key = call.args[0]?.key
  if (key === undefined || length === undefined || length.terms.has(`strlen(${key})`)) return
  const difference = minus(atom(`strlen(${key})`), length)
  call.state.learn(difference, null)
  call.state.learn(times(difference, -1), null)
}

const sourceOf = (value: Value | undefined): ReadonlyArray<string> =>
  value?.key === undefined || value.literal !== undefined ? [] : [value.key]

const strcpy = (call: Call): void => {
  const length = lengthOf(call.args[1])
  const [target, source] = call.args
  const limit = limitText(call)
  const fixes: Array<ReadonlyArray<Edit>> = []
  if (limit !== undefined && source !== undefined && target !== undefined) {
    fixes.push(lengthGuard(call, `strlen(${source.node.text})`, limit))
    fixes.push([replaceNode(call.node, `snprintf(${target.node.text}, ${limit}, "%s", ${source.node.text})`)])
  }
  demand(call, { bytes: length === undefined ? undefined : shift(length, 1), cwe: 120, label: "length check", fixes })
  fresh(call)
  learnLength(call, length)
  if (target?.key !== undefined) call.state.update(target.key, { parts: sourceOf(source) })
}

const strcat = (call: Call): void => {
  const [target, source] = call.args
  const added = lengthOf(source)
  const old = target?.key === undefined ? undefined : atom(`strlen(${target.key})`)
  const limit = limitText(call)
  const fixes =
    limit === undefined || target === undefined || source === undefined
      ? []
      : [lengthGuard(call, `strlen(${target.node.text}) + strlen(${source.node.text})`, limit)]
  const bytes = added === undefined || old === undefined ? undefined : shift(plus(old, added), 1)
  demand(call, { bytes, cwe: 120, label: "length check", fixes })
  const before = target?.key === undefined ? [] : (call.state.cell(target.key).parts ?? [])
  fresh(call)
  if (target?.key !== undefined) call.state.update(target.key, { parts: [...before, ...sourceOf(source)] })
}

const strncat = (call: Call): void => {
  const [target, , count] = call.args
  const old = target?.key === undefined ? undefined : atom(`strlen(${target.key})`)
  const limit = limitText(call)
  const fixes =
    limit === undefined || target === undefined || count === undefined
      ? []
      : [[replaceNode(count.node, `${limit} - strlen(${target.node.text}) - 1`)]]
  const bytes = count?.lin === undefined || old === undefined ? undefined : shift(plus(old, count.lin), 1)
  demand(call, { bytes, cwe: 120, label: "sized append", fixes })
  call.walk.construct(call.node, 120, "sized append", "writes at most the room that is left")
  fresh(call)
}

const strncpy = (call: Call): void => {
  const [target, , count] = call.args
  const limit = limitText(call)
  const fixes =
    limit === undefined || count === undefined
      ? []
      : [[replaceNode(count.node, `${limit} - 1`), ...endAfter(call, limit)]]
  demand(call, { bytes: count?.lin, cwe: 120, label: "sized copy", fixes })
  fresh(call)
  if (target?.key !== undefined)
    call.state.update(target.key, { unterminated: call.node, parts: sourceOf(call.args[1]) })
}

const endAfter = (call: Call, limit: string): ReadonlyArray<Edit> => {
  const target = call.args[0]?.node
  return target === undefined ? [] : after(call.walk.source, call.node, `${target.text}[${limit} - 1] = 0;`)
}

/** At the end of a function a text must have its final zero. */
export const unterminatedFix = (call: Node, limit: string, source: string): ReadonlyArray<Edit> => {
  const args = part(call, "arguments")?.children ?? []
  const [target, , count] = args
  if (target === undefined || count === undefined) return []
  return [replaceNode(count, `${limit} - 1`), ...after(source, call, `${target.text}[${limit} - 1] = 0;`)]
}

const memcpy = (call: Call): void => {
  const { walk, state, node } = call
  const size = call.args[2]
  const limit = limitText(call)
  const signed =
    size?.lin !== undefined &&
    !isConstant(size.lin) &&
    [...size.lin.terms.keys()].some((name) => !walk.isNonNegative(name))
  const positive = size?.lin === undefined ? undefined : walk.prove(times(size.lin, -1), state)
  const count = size === undefined ? undefined : countOf(size.node)
  const fixes =
    size === undefined || limit === undefined || count === undefined
      ? []
      : [guard(walk, node, `${signed ? `${count.text} < 0 || ` : ""}${count.text} > ${limit}`, state)]
  const unsure = signed && positive === undefined && call.name !== "memset"
  const heap = call.args[0]?.key !== undefined && state.cell(call.args[0].key).block?.kind === "heap"
  if (unsure && walk.closed && !heap) {
    walk.report({ cwe: 195, severity: "high", message: `the size of ${call.name} may be negative`, node, fixes })
  } else if (positive !== undefined) walk.credit(positive, 195, "sign check", "a negative size would become huge")
  demand(call, { bytes: size?.lin, cwe: 787, label: "length check", fixes })
  fresh(call)
}

/** `n` of `n * sizeof(int)`. */
const countOf = (node: Node): Node => {
  const inner = bare(node)
  if (inner.type !== "binary_expression" || inner.op !== "*") return inner
  return inner.children.find((c) => bare(c).type !== "sizeof_expression") ?? inner
}

/** The most bytes a format can write (final zero included), as a form over the lengths of its texts. */
const formatted = (format: string, args: ReadonlyArray<Value>): Linear | undefined => {
  let form = constant(1)
  let next = 0
  const rest = format.replace(/%%/g, "\u0001").replace(/\\./g, "\u0001")
  for (const piece of rest.split(/(%[-+ 0#]*\d*(?:\.\d+)?(?:hh|h|ll|l|z)?[a-zA-Z])/)) {
    if (!piece.startsWith("%")) {
      form = shift(form, piece.length)
      continue
    }
    const kind = piece.at(-1) ?? ""
    const arg = args[next++]
    if (kind === "s") {
      const length = lengthOf(arg)
      if (length === undefined) return undefined
      form = plus(form, length)
    } else if (kind === "c") form = shift(form, 1)
    else if (/[diuxXo]/.test(kind)) form = shift(form, /l|z/.test(piece) ? 20 : 11)
    else return undefined
  }
  return form
}

const sprintf = (call: Call): void => {
  format(1)(call)
  const [target, text] = call.args
  const limit = limitText(call)
  const fixes = limit === undefined || target === undefined ? [] : [sizedFormat(call, limit)]
  const bytes = text?.literal === undefined ? undefined : formatted(text.literal, call.args.slice(2))
  demand(call, { bytes, cwe: 120, label: "length check", fixes })
  fresh(call)
  if (target?.key !== undefined) call.state.update(target.key, { parts: call.args.slice(2).flatMap(sourceOf) })
}

const sizedFormat = (call: Call, limit: string): ReadonlyArray<Edit> => {
  const name = call.node.children[0]
  const first = call.args[0]?.node
  if (name === undefined || first === undefined) return []
  return [replaceNode(name, "snprintf"), { start: first.end, end: first.end, text: `, ${limit}` }]
}

const snprintf = (call: Call): void => {
  format(2)(call)
  const [target, size] = call.args
  const limit = limitText(call)
  const cap = room(call)
  const fixes = limit === undefined || size === undefined ? [] : [[replaceNode(size.node, limit)]]
  if (cap !== undefined) demand(call, { bytes: size?.lin, cwe: 120, label: "sized format", fixes })
  if (call.args[2]?.literal !== undefined)
    call.walk.construct(call.node, 120, "sized format", "writes at most the size of its target")
  fresh(call)
  if (target?.key !== undefined)
    call.state.update(target.key, {
      parts: call.args
        .slice(3)
        .filter((a) => a.type.depth > 0)
        .flatMap(sourceOf)
    })
}

const gets = (call: Call): void => demand(call, { bytes: undefined, cwe: 120, label: "", fixes: [] })

export const copies: Readonly<Record<string, (call: Call) => void>> = {
  strcpy,
  strcat,
  strncat,
  strncpy,
  memcpy,
  memmove: memcpy,
  memset: memcpy,
  sprintf,
  snprintf,
  gets
}

/** `while ((*d++ = *s++));` is strcpy without a look at the target's size. */
export const copyLoop = (walk: Walk, loop: Node, condition: Node, state: State): void => {
  const copy = bare(condition)
  const [to, from] = copy.type === "assignment_expression" ? copy.children.map(walked) : []
  if (to === undefined || from === undefined) return
  const target: Value = { node: loop, type: walk.typeOf(to), key: to }
  const cap = capacities(walk, target, constant(0), true, state)[0]
  const limit = cap === undefined ? undefined : render(cap.form)
  const length = shift(atom(`strlen(${from})`), 1)
  if (cap !== undefined && walk.prove(minus(length, cap.form), state) !== undefined) return
  walk.report({
    cwe: 120,
    severity: "critical",
    message: `the loop copies ${from} to ${to} without a bound`,
    node: loop,
    fixes:
      limit === undefined
        ? []
        : [[...guard(walk, loop, `strlen(${from}) >= ${limit}`, state), replaceNode(loop, `strcpy(${to}, ${from});`)]]
  })
}

/** `p` of `*p++`. */
const walked = (node: Node): string | undefined => {
  const inner = bare(node)
  const step =
    inner.type === "pointer_expression" && inner.children[0] !== undefined ? bare(inner.children[0]) : undefined
  return step?.type === "update_expression" && step.op === "++" ? step.children[0]?.text : undefined
}
