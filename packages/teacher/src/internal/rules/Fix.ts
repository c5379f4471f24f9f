/** Source edits for repairs: guards before statements, replacements, statements after. Offsets are UTF-16 units. */
import { enclosing, loops, type Node, statementOf } from "./Ast.ts"

export interface Edit {
  readonly start: number
  readonly end: number
  readonly text: string
}

/** Applies edits that do not overlap; of overlapping ones the first in source order wins. */
export const applyEdits = (source: string, edits: ReadonlyArray<Edit>): string => {
  let out = ""
  let at = 0
  for (const edit of [...edits].sort((a, b) => a.start - b.start || a.end - b.end)) {
    if (edit.start < at) continue
    out += source.slice(at, edit.start) + edit.text
    at = edit.end
  }
  return out + source.slice(at)
}

export const replaceNode = (node: Node, text: string): Edit => ({ start: node.start, end: node.end, text })

const inBlock = (statement: Node): boolean =>
  statement.parent === null ||
  statement.parent.type === "compound_statement" ||
  statement.parent.type === "case_statement" ||
  statement.parent.type === "labeled_statement"

const indent = (source: string, node: Node): string =>
  /^[ \t]*/.exec(source.slice(source.lastIndexOf("\n", node.start - 1) + 1))?.[0] ?? ""

/** Puts lines before the statement that holds `node`; a lone branch or loop body gets braces. */
export const before = (source: string, node: Node, text: string): ReadonlyArray<Edit> => {
  const statement = statementOf(node)
  if (inBlock(statement)) {
    const pad = `\n${indent(source, statement)}`
    return [{ start: statement.start, end: statement.start, text: `${text}${pad}` }]
  }
  return [
    { start: statement.start, end: statement.start, text: `{ ${text} ` },
    { start: statement.end, end: statement.end, text: " }" }
  ]
}

export const after = (source: string, node: Node, text: string): ReadonlyArray<Edit> => {
  const statement = statementOf(node)
  if (inBlock(statement))
    return [{ start: statement.end, end: statement.end, text: `\n${indent(source, statement)}${text}` }]
  return [
    { start: statement.start, end: statement.start, text: "{ " },
    { start: statement.end, end: statement.end, text: ` ${text} }` }
  ]
}

/** The outermost loop around the node, or the node itself. */
export const outOfLoops = (node: Node): Node => {
  let at = node
  for (let loop = enclosing(at, ...loops); loop !== undefined; loop = enclosing(at, ...loops)) at = loop
  return at
}
