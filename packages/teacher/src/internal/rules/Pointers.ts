/** Pointers that may be NULL, freed, or too small for what they point to; and how to mend their use. */
import { bare, enclosing, type Node, norm, part, statementOf } from "./Ast.ts"
import { after, before, type Edit, replaceNode } from "./Fix.ts"
import { errorReturn } from "./Fixes.ts"
import { isConstant } from "./Linear.ts"
import type { State } from "./State.ts"
import type { CType } from "./Types.ts"
import type { Value, Walk } from "./Walk.ts"

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
  state.flag(`used:${key}`, null)
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
  if (target === undefined) return undefined
  const known = walk.names.get(target.text.replace(/[*\s]/g, ""))?.type
  // A declarator's stars are part of its type; a dereference takes one away.
  return known !== undefined && target.type === "pointer_expression" ? { ...known, depth: known.depth - 1 } : known
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
