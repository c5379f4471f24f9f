/**
 * A C syntax tree as plain objects: copied once from tree-sitter's wasm memory, which is freed at once.
 *
 * Unusual: children hold named nodes only, except operators, which are kept as `op`. Offsets are UTF-16 units, so
 * `source.slice(start, end)` is the node's text.
 */
import type { Parser, TreeCursor } from "web-tree-sitter"

export interface Node {
  readonly type: string
  readonly start: number
  readonly end: number
  readonly text: string
  /** The grammar's field name of this node in its parent, or "". */
  readonly field: string
  readonly parent: Node | null
  readonly children: ReadonlyArray<Node>
  /** The operator token of unary, binary, update and assignment expressions, else "". */
  readonly op: string
}

export interface Parsed {
  readonly root: Node
  readonly hasError: boolean
}

interface Draft {
  type: string
  start: number
  end: number
  text: string
  field: string
  parent: Node | null
  children: Array<Node>
  op: string
}

const copy = (cursor: TreeCursor, source: string, parent: Node | null): Node => {
  const start = cursor.startIndex
  const end = cursor.endIndex
  const node: Draft = {
    type: cursor.nodeType,
    start,
    end,
    text: source.slice(start, end),
    field: cursor.currentFieldName ?? "",
    parent,
    children: [],
    op: ""
  }
  if (cursor.gotoFirstChild()) {
    do {
      if (cursor.nodeIsNamed) {
        const child = copy(cursor, source, node)
        if (child.type !== "comment") node.children.push(child)
      } else if (cursor.currentFieldName === "operator") node.op = cursor.nodeType
      else if (node.type === "pointer_expression" && node.op === "") node.op = cursor.nodeType
      else if (node.type === "if_statement" || node.type === "field_expression") node.op ||= cursor.nodeType
    } while (cursor.gotoNextSibling())
    cursor.gotoParent()
  }
  return node
}

/** Undefined when the parser gives up (it has a time limit only if one was set). */
export const parseTree = (parser: Parser, source: string): Parsed | undefined => {
  const tree = parser.parse(source)
  if (tree === null) return undefined
  const cursor = tree.walk()
  const hasError = tree.rootNode.hasError
  const root = copy(cursor, source, null)
  cursor.delete()
  tree.delete()
  return { root, hasError }
}

/** The first child in that field. */
export const part = (node: Node, field: string): Node | undefined => node.children.find((c) => c.field === field)

/** All nodes below, in source order, the node itself first. */
export const descend = function* (node: Node): Generator<Node> {
  yield node
  for (const child of node.children) yield* descend(child)
}

export const findAll = (node: Node, ...types: ReadonlyArray<string>): ReadonlyArray<Node> =>
  [...descend(node)].filter((n) => types.includes(n.type))

/** Without parentheses and casts. */
export const bare = (node: Node): Node => {
  let at = node
  for (;;) {
    const inner: Node | undefined =
      at.type === "parenthesized_expression"
        ? at.children[0]
        : at.type === "cast_expression"
          ? part(at, "value")
          : undefined
    if (inner === undefined) return at
    at = inner
  }
}

const cache = new WeakMap<Node, string>()

/** The expression's text without blanks, casts and outer parentheses: equal texts mean the same expression. */
export const norm = (node: Node): string => {
  const inner = bare(node)
  const known = cache.get(inner)
  if (known !== undefined) return known
  const text =
    inner.type === "field_expression"
      ? `${norm(inner.children[0] ?? inner)}${inner.op === "." ? "." : "->"}${inner.children[1]?.text ?? ""}`
      : inner.type === "subscript_expression"
        ? `${norm(inner.children[0] ?? inner)}[${norm(inner.children[1] ?? inner)}]`
        : inner.type === "pointer_expression"
          ? `${inner.op}${norm(inner.children[0] ?? inner)}`
          : inner.text.replace(/\/\*[\s\S]*?\*\/|\s+/g, "")
  cache.set(inner, text)
  return text
}

const statements = /(_statement|declaration)$/

/** The statement that holds the node and stands directly in a block, a branch, a loop body or a case. */
export const statementOf = (node: Node): Node => {
  let at = node
  while (at.parent !== null && !(statements.test(at.type) && at.type !== "parameter_declaration")) at = at.parent
  return at
}

export const enclosing = (node: Node, ...types: ReadonlyArray<string>): Node | undefined => {
  for (let at = node.parent; at !== null; at = at.parent) if (types.includes(at.type)) return at
  return undefined
}

export const loops = ["for_statement", "while_statement", "do_statement"] as const

/** Whether a branch leaves at once: a short block whose last statement jumps. */
export const leavesAtOnce = (node: Node | undefined): boolean => {
  if (node === undefined) return false
  if (/^(return|break|continue|goto)_statement$/.test(node.type)) return true
  if (node.type !== "compound_statement" || node.children.length === 0 || node.children.length > 3) return false
  return leavesAtOnce(node.children.at(-1))
}
