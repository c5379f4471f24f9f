/** Runs a function body over states: branches, loops (once, with what they change forgotten), jumps and exits. */
import { bare, findAll, leavesAtOnce, loops, type Node, norm, part } from "./Ast.ts"
import { branch, type Site } from "./Conditions.ts"
import { copyLoop } from "./Copies.ts"
import { leave } from "./Exits.ts"
import { declare, evaluate } from "./Expressions.ts"
import { atom, constant, isConstant, type Linear, minus } from "./Linear.ts"
import { type Guard, join, type State } from "./State.ts"
import type { Walk } from "./Walk.ts"

/** The state behind the statement, or null when control does not get there. */
export const execute = (walk: Walk, node: Node, state: State): State | null => {
  switch (node.type) {
    case "compound_statement":
      return sequence(walk, node.children, state)
    case "declaration":
      declare(walk, node, state)
      return state
    case "expression_statement": {
      const [expression] = node.children
      if (expression === undefined) return state
      evaluate(walk, expression, state)
      return ends(expression) ? null : state
    }
    case "if_statement":
      return choose(walk, node, state)
    case "while_statement":
    case "do_statement":
    case "for_statement":
      return repeat(walk, node, state)
    case "return_statement":
      returned(walk, node, node.children[0], state)
      return null
    case "break_statement":
      walk.breaks.at(-1)?.push(state)
      return null
    case "continue_statement":
      walk.continues.at(-1)?.push(state)
      return null
    case "goto_statement": {
      const label = node.children[0]?.text ?? ""
      walk.jumps.set(label, join(walk.jumps.get(label) ?? null, state) ?? state)
      return null
    }
    case "labeled_statement": {
      const label = node.children[0]?.text ?? ""
      const entry = join(state, walk.jumps.get(label) ?? null) ?? state
      return sequence(walk, node.children.slice(1), entry)
    }
    case "switch_statement":
      return select(walk, node, state)
    case "else_clause":
      return sequence(walk, node.children, state)
    default:
      for (const child of node.children) evaluate(walk, child, state)
      return state
  }
}

const sequence = (walk: Walk, nodes: ReadonlyArray<Node>, start: State): State | null => {
  let state: State | null = start
  for (const node of nodes) {
    if (state === null) {
      // Code behind a jump is reached through its labels only.
      if (node.type !== "labeled_statement") {
        walk.unreached ??= node
        continue
      }
      const entry = walk.jumps.get(node.children[0]?.text ?? "")
      if (entry === undefined) continue
      state = entry
    }
    state = execute(walk, node, state)
  }
  return state
}

/** exit() and friends do not come back. */
const ends = (expression: Node): boolean => {
  const call = bare(expression)
  return (
    call.type === "call_expression" &&
    /^(exit|abort|_exit|__builtin_unreachable|err|errx)$/.test(call.children[0]?.text ?? "")
  )
}

const choose = (walk: Walk, node: Node, state: State): State | null => {
  const condition = part(node, "condition")
  const consequence = part(node, "consequence")
  const alternative = part(node, "alternative")
  if (condition === undefined || consequence === undefined) return state
  const exit: Guard["kind"] = leavesAtOnce(consequence) && alternative === undefined ? "exit" : "branch"
  const site: Site = { node, yes: "branch", no: exit }
  const [whenTrue, whenFalse] = branch(walk, condition, state, site)
  const a = execute(walk, consequence, whenTrue)
  const b = alternative === undefined ? whenFalse : execute(walk, alternative, whenFalse)
  return join(a, b)
}

const select = (walk: Walk, node: Node, state: State): State | null => {
  const condition = part(node, "condition")
  const body = part(node, "body")
  if (condition !== undefined) evaluate(walk, condition, state)
  if (body === undefined) return state
  walk.breaks.push([])
  let running: State | null = null
  let hasDefault = false
  for (const child of body.children) {
    if (child.type !== "case_statement") {
      if (running !== null) running = execute(walk, child, running)
      continue
    }
    const value = part(child, "value")
    if (value === undefined) hasDefault = true
    const entry: State = join(running, state.copy()) ?? state.copy()
    running = sequence(
      walk,
      child.children.filter((c) => c !== value),
      entry
    )
  }
  const outs: ReadonlyArray<State> = walk.breaks.pop() ?? []
  let after: State | null = hasDefault ? running : join(running, state)
  for (const out of outs) after = join(after, out)
  return after
}

/** Which places a piece of code changes, and whether only upwards or only downwards. */
const changes = (nodes: ReadonlyArray<Node | undefined>): ReadonlyMap<string, "up" | "down" | "any"> => {
  const found = new Map<string, "up" | "down" | "any">()
  const note = (key: string, way: "up" | "down" | "any"): void => {
    const known = found.get(key)
    found.set(key, known === undefined || known === way ? way : "any")
  }
  for (const root of nodes) {
    if (root === undefined) continue
    for (const node of findAll(
      root,
      "assignment_expression",
      "update_expression",
      "pointer_expression",
      "init_declarator"
    )) {
      if (node.type === "update_expression" && node.children[0] !== undefined)
        note(norm(node.children[0]), node.op === "++" ? "up" : "down")
      else if (node.type === "assignment_expression") {
        const left = part(node, "left")
        const right = part(node, "right")
        if (left === undefined || right === undefined) continue
        const step = /^\d+$/.test(norm(right))
        note(norm(left), node.op === "+=" && step ? "up" : node.op === "-=" && step ? "down" : "any")
      } else if (node.type === "pointer_expression" && node.op === "&" && node.children[0] !== undefined)
        note(norm(node.children[0]), "any")
    }
  }
  return found
}

const repeat = (walk: Walk, node: Node, state: State): State | null => {
  const initial = part(node, "initializer")
  const condition = part(node, "condition")
  const update = part(node, "update")
  const body = part(node, "body") ?? node.children.at(-1)
  if (initial !== undefined)
    execute(
      walk,
      initial.type === "declaration" ? initial : { ...initial, type: "expression_statement", children: [initial] },
      state
    )
  if (body === undefined) return state
  if (condition !== undefined) copyLoop(walk, node, condition, state)
  const changed = changes([condition, update, body])
  const strings = textWalks(walk, condition, changed, state)
  const head = state.copy()
  for (const [key, way] of changed)
    head.forget(key, (form, name) => {
      const own = form.terms.get(key) ?? 0
      if (name !== key || [...form.terms.keys()].some((other) => other !== key && changed.has(other))) return false
      return (way === "up" && own < 0) || (way === "down" && own > 0)
    })
  for (const form of strings) head.learn(form, null)
  walk.loopVariables.push(new Set(changed.keys()))
  let after = pass(walk, node, { condition, update, body }, head)
  // What is freed at the end of a round is freed at the start of the next; a pointer may lag one round behind.
  for (let round = 0, known = head; round < 2 && after.end !== null; round++) {
    const { end } = after
    const before = known
    const news = [...end.cells].some(
      ([key, cell]) => cell.freed !== undefined && before.cells.get(key)?.freed === undefined
    )
    if (!news) break
    known = head.copy()
    known.cells = join(before, end)?.cells ?? head.cells
    after = pass(walk, node, { condition, update, body }, known.copy())
  }
  walk.loopVariables.pop()
  loopFilter(walk, node, condition, body, after.out)
  return after.out
}

interface Parts {
  readonly condition: Node | undefined
  readonly update: Node | undefined
  readonly body: Node
}

const pass = (
  walk: Walk,
  node: Node,
  { condition, update, body }: Parts,
  head: State
): { end: State | null; out: State | null } => {
  walk.breaks.push([])
  walk.continues.push([])
  const site: Site = { node, yes: "loop", no: "loop" }
  const first =
    node.type === "do_statement" || condition === undefined ? [head.copy(), null] : branch(walk, condition, head, site)
  let end = execute(walk, body, first[0] ?? head.copy())
  for (const more of walk.continues.pop() ?? []) end = join(end, more)
  if (end !== null && update !== undefined) evaluate(walk, update, end)
  let out: State | null = first[1] ?? null
  if (node.type === "do_statement" && end !== null && condition !== undefined)
    out = branch(walk, condition, end, site)[1]
  else if (out !== null && end !== null) {
    // The facts at the loop's head hold on every way out through its condition; the variables' lives add up.
    const cells = join(out, end)?.cells ?? out.cells
    out.cells = cells
  }
  for (const state of walk.breaks.pop() ?? []) out = join(out, state)
  return { end, out }
}

/** `while (s[i]) i++`: i never passes the end of s. The forms that hold at such a loop's head. */
const textWalks = (
  walk: Walk,
  condition: Node | undefined,
  changed: ReadonlyMap<string, string>,
  state: State
): ReadonlyArray<Linear> => {
  if (condition === undefined) return []
  return findAll(condition, "subscript_expression").flatMap((access) => {
    const [base, index] = access.children
    if (base === undefined || index === undefined) return []
    const key = norm(index)
    const form = minus(atom(key), atom(`strlen(${norm(base)})`))
    const stays = changed.get(key) === "up" && !changed.has(norm(base)) && isTextTest(access)
    return stays && walk.prove(form, state) !== undefined ? [form] : []
  })
}

const isTextTest = (access: Node): boolean => {
  let at = access
  while (at.parent?.type === "parenthesized_expression") at = at.parent
  const parent = at.parent
  if (parent === null) return false
  if (parent.type === "binary_expression" && /^[!=]=$/.test(parent.op))
    return /^('\\0'|0)$/.test(norm(parent.children[1] ?? parent))
  return parent.type !== "binary_expression" || parent.op === "&&"
}

/** A loop that leaves at the first character outside a set: behind it the text holds nothing else. */
const loopFilter = (walk: Walk, loop: Node, condition: Node | undefined, body: Node, after: State | null): void => {
  if (after === null || condition === undefined) return
  for (const test of findAll(body, "if_statement")) {
    const question = part(test, "condition")
    if (question === undefined || !leavesAtOnce(part(test, "consequence"))) continue
    const classed = /!\s*is(alnum|alpha|digit|xdigit)\s*\(/.test(question.text)
    const listed = [...question.text.matchAll(/==\s*'(\\?.)'/g)].map((m) => m[1] ?? "")
    if (!classed && listed.length === 0) continue
    const names = new Set(findAll(question, "identifier").map((n) => n.text))
    for (const name of names) {
      const text = after.cell(name).alias ?? textOf(loop, name) ?? name
      if (walk.typeOf(text).depth === 0) continue
      const guard: Guard = { node: loop, leaf: test, kind: "exit" }
      if (classed) after.flag(`only:${text}`, guard)
      for (const what of listed) after.flag(`no:${text}:${what}`, guard)
    }
  }
}

/** `for (p = s; *p; p++)`: p walks over s. */
const textOf = (loop: Node, name: string): string | undefined => {
  const initial = part(loop, "initializer")
  for (const node of initial === undefined ? [] : findAll(initial, "init_declarator", "assignment_expression")) {
    const target = part(node, "declarator") ?? part(node, "left")
    const value = part(node, "value") ?? part(node, "right")
    if (target !== undefined && value !== undefined && target.text.replace(/[*\s]/g, "") === name) return norm(value)
  }
  return undefined
}

/** Each outcome of `return c ? a : b` is an exit of its own. */
const returned = (walk: Walk, node: Node, value: Node | undefined, state: State): void => {
  const inner = value === undefined ? undefined : bare(value)
  if (inner?.type === "conditional_expression") {
    const condition = part(inner, "condition")
    if (condition !== undefined) {
      const [t, f] = branch(walk, condition, state, { node: inner, yes: "value", no: "value" })
      returned(walk, node, part(inner, "consequence"), t)
      returned(walk, node, part(inner, "alternative"), f)
      return
    }
  }
  leave(walk, node, value === undefined ? undefined : evaluate(walk, value, state), state)
}

export const isLoop = (node: Node): boolean => loops.some((type) => type === node.type)
export const zero = (form: Linear): boolean => isConstant(minus(form, constant(0)))
