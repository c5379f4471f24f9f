/** How a repair leaves a function: its error value, and guards that return it without leaking. */
import { enclosing, findAll, loops, type Node, part } from "./Ast.ts"
import { before, type Edit } from "./Fix.ts"
import type { State } from "./State.ts"
import type { Walk } from "./Walk.ts"

/** The value that means failure: what the requirement names, else what the function already returns, else by type. */
export const errorValue = (walk: Walk): string | undefined => {
  const { returns } = walk.header
  if (returns.depth > 0) return "NULL"
  if (returns.base === "void") return ""
  if (returns.base !== "int" && returns.base !== "char") return undefined
  const asked = walk.request.match(/-\d+/g)?.at(-1)
  if (asked !== undefined) return asked
  const values = findAll(walk.header.body, "return_statement").flatMap((r) => r.children[0]?.text ?? [])
  const isFailure = (text: string): boolean => /^\(?-\s*[A-Z0-9]\w*\)?$|^NULL$|^FALSE$|^false$/.test(text)
  const known = values.find(isFailure) ?? values.flatMap((name) => valuesOf(walk, name)).find(isFailure)
  return known ?? (returns.unsigned ? "0" : "-1")
}

/** What a returned variable is ever set to. */
const valuesOf = (walk: Walk, name: string): ReadonlyArray<string> =>
  findAll(walk.header.body, "init_declarator", "assignment_expression").flatMap((set) => {
    const target = part(set, "declarator") ?? part(set, "left")
    const value = part(set, "value") ?? part(set, "right")
    return target?.text === name && value !== undefined ? [value.text] : []
  })

/** A statement that leaves the function with its error value, giving back what this state owns (except `not`). */
export const errorReturn = (walk: Walk, state?: State, not?: string): string => {
  const value = errorValue(walk)
  const leave = value === "" ? "return;" : `return ${value ?? "0"};`
  const owned = [...(state?.cells ?? [])].filter(
    ([key, cell]) =>
      cell.owned === true && key !== not && /^[A-Za-z_]\w*$/.test(key) && !state?.flags.has(`null:${key}`)
  )
  if (owned.length === 0) return leave
  return `{ ${owned.map(([key, cell]) => `${cell.block?.kind === "file" ? "fclose" : "free"}(${key});`).join(" ")} ${leave} }`
}

/** Inserts `if (checks) <leave>` before the statement that holds the node. */
export const guard = (walk: Walk, node: Node, checks: string, state: State): ReadonlyArray<Edit> => {
  const skip =
    walk.header.returns.base === "void" && walk.header.returns.depth === 0 && enclosing(node, ...loops) !== undefined
  return before(walk.source, node, `if (${checks}) ${skip ? "continue;" : errorReturn(walk, state)}`)
}
