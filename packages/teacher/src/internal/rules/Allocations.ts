/** Blocks and files: how big they are, who owns them, when they are given back. */
import { bare, norm, part, statementOf } from "./Ast.ts"
import type { Call } from "./Call.ts"
import { evaluate } from "./Expressions.ts"
import { after, replaceNode } from "./Fix.ts"
import { errorReturn } from "./Fixes.ts"
import { atom, constant, isConstant, shift, times } from "./Linear.ts"
import type { Value } from "./Walk.ts"

const allocate =
  (bytes: Value["lin"], elements: Value["lin"]) =>
  (call: Call): void => {
    call.state.cells.set(call.atom, {
      nullable: call.node,
      owned: true,
      block: { bytes, elements, node: call.node, kind: "heap" }
    })
  }

export const malloc = (call: Call): void => {
  const [size] = call.args
  const node = size === undefined ? undefined : bare(size.node)
  let elements: Value["lin"]
  if (node?.type === "binary_expression" && node.op === "*") {
    const [left, right] = node.children
    const counted =
      left !== undefined && bare(left).type === "sizeof_expression"
        ? right
        : right !== undefined && bare(right).type === "sizeof_expression"
          ? left
          : undefined
    if (counted !== undefined) {
      elements = evaluate(call.walk, counted, call.state.copy()).lin
      call.walk.construct(node, 131, "allocation size", "counts elements times their size")
    }
  } else if (node?.type === "sizeof_expression" && size?.lin !== undefined && !isConstant(size.lin)) {
    elements = constant(1)
    call.walk.construct(node, 131, "allocation size", "asks for the size of the object itself")
  }
  allocate(size?.lin, elements)(call)
  creditEarlyTests(call)
}

/** A length test that leaves before the block exists cannot leak it. */
const creditEarlyTests = (call: Call): void => {
  for (const fact of call.state.facts)
    if (fact.origin?.kind === "exit" && [...fact.form.terms.keys()].some((name) => name.startsWith("strlen(")))
      call.walk.credit([fact.origin], 401, "test before allocation", "leaves before anything is allocated")
}

export const realloc = (call: Call): void => {
  const [old, size] = call.args
  const target = call.node.parent?.type === "assignment_expression" ? part(call.node.parent, "left") : undefined
  if (old?.key !== undefined && target !== undefined && norm(target) === old.key) {
    const name = "grown"
    const statement = statementOf(call.node)
    call.walk.report({
      cwe: 401,
      severity: "medium",
      message: `when realloc fails, the old block of ${old.key} is lost`,
      node: call.node,
      fixes: [
        [
          replaceNode(
            statement,
            `void *${name} = ${call.node.text};\n  if (!${name}) ${errorReturn(call.walk)}\n  ${old.key} = ${name};`
          )
        ]
      ]
    })
  } else call.walk.construct(call.node, 401, "old block kept", "a failed realloc leaves the old pointer in place")
  allocate(size?.lin, undefined)(call)
}

export const free = (call: Call): void => {
  const { walk, node, state } = call
  const key = call.args[0]?.key
  if (key === undefined) return
  const cell = state.cell(key)
  if (cell.freed !== undefined) {
    walk.report({
      cwe: 415,
      severity: "critical",
      message: `${key} is freed twice`,
      node,
      fixes: [[replaceNode(statementOf(node), ";")], after(walk.source, cell.freed, `${key} = NULL;`)]
    })
  }
  if (cell.owned === true) walk.construct(statementOf(node), 401, "release", `${key} is given back on this path`)
  for (const alias of [key, cell.alias])
    if (alias !== undefined) {
      const { owned: _owned, nullable: _nullable, ...rest } = state.cell(alias)
      state.cells.set(alias, { ...rest, freed: node })
    }
}

export const fclose = (call: Call): void => {
  const key = call.args[0]?.key
  if (key === undefined) return
  if (call.state.cell(key).owned === true)
    call.walk.construct(statementOf(call.node), 775, "release", `${key} is closed on this path`)
  call.state.update(key, { owned: false })
}

export const strdup = (call: Call): void => {
  const text = call.args[0]?.node
  const bytes = text === undefined ? undefined : shift(atom(`strlen(${norm(text)})`), 1)
  call.walk.construct(call.node, 131, "library copy", "the library counts the final zero")
  allocate(bytes, undefined)(call)
  creditEarlyTests(call)
}

export const calloc = (call: Call): void => {
  const [count, size] = call.args
  const bytes =
    count?.lin === undefined || size?.lin === undefined
      ? undefined
      : isConstant(size.lin)
        ? times(count.lin, size.lin.constant)
        : isConstant(count.lin)
          ? times(size.lin, count.lin.constant)
          : undefined
  if (call.args.length === 2 && !(size?.lin !== undefined && isConstant(size.lin) && size.lin.constant === 1))
    call.walk.construct(call.node, 190, "counted allocation", "calloc checks the product itself")
  allocate(bytes, count?.lin)(call)
}
