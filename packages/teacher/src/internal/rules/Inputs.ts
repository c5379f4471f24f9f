/** Input, output and formats: results that must be looked at, texts that must not be formats. */
import { bare, enclosing, norm, part, statementOf } from "./Ast.ts"
import type { Call } from "./Call.ts"
import { type Edit, replaceNode } from "./Fix.ts"
import { errorReturn } from "./Fixes.ts"
import { atom, shift } from "./Linear.ts"

const conversions = (format: string): number =>
  (format.replace(/%%/g, "").match(/%(?!\*)\d*l?l?h?[diuxsocfpn[]/g) ?? []).length

export const scanf =
  (first: number) =>
  (call: Call): void => {
    const { walk, state } = call
    const least = conversions(call.args[first]?.literal ?? "")
    call.args.slice(first + 1).forEach((arg) => {
      if (arg.key === undefined) return
      const key = arg.key.startsWith("&")
        ? arg.key.slice(1)
        : arg.type.depth > 0 && bare(arg.node).type === "identifier"
          ? `*${arg.key}`
          : arg.key
      // A variable that already holds the failure value needs no check of the result.
      const failing = walk.prove(shift(atom(key), 1), state) !== undefined
      if (failing) {
        const declarator = walk.names.get(key)?.node
        if (declarator?.type === "init_declarator")
          walk.construct(
            statementOf(declarator),
            252,
            "initialised local",
            `${key} means failure until the call sets it`
          )
      }
      state.forget(key)
      state.cells.set(key, failing ? {} : { pending: { call: call.atom, least, node: call.node } })
    })
    creditTest(call)
  }

/** A result that is looked at where it is made. */
const creditTest = (call: Call): void => {
  let at = call.node
  while (
    at.parent !== null &&
    /^(parenthesized_expression|unary_expression|binary_expression|cast_expression)$/.test(at.parent.type)
  )
    at = at.parent
  const holder = at.parent
  if (holder === null || at.field !== "condition") return
  if (holder.type === "if_statement") {
    const consequence = part(holder, "consequence")
    const node = consequence?.type === "return_statement" ? holder : at
    call.walk.construct(node, 252, "checked result", `${call.name} may fail, and here it is noticed`)
  } else if (holder.type === "conditional_expression")
    call.walk.construct(holder, 252, "checked result", `${call.name} may fail, and here it is noticed`)
}

export const output =
  (stream: number) =>
  (call: Call): void => {
    const { walk, node } = call
    if (call.name === "fprintf") format(1)(call)
    const target = call.args[stream]?.key
    const statement = statementOf(node)
    const ignored = statement.type === "expression_statement" && bare(statement.children[0] ?? statement) === node
    if (
      target === undefined ||
      !walk.isParam(target) ||
      !walk.closed ||
      walk.header.returns.base !== "int" ||
      walk.header.returns.depth > 0
    )
      return
    if (!ignored) {
      creditTest(call)
      return
    }
    const test = call.name === "fwrite" ? `${node.text} == 0` : `${node.text} < 0`
    walk.report({
      cwe: 252,
      severity: "low",
      message: `the result of ${call.name} is ignored, so a failed write looks like success`,
      node,
      fixes: [[replaceNode(statement, `if (${test}) ${errorReturn(walk, call.state)}`)]]
    })
  }

/** A format must be a literal: text from elsewhere goes behind "%s". */
export const format =
  (index: number) =>
  (call: Call): void => {
    const { walk, node } = call
    const arg = call.args[index]
    if (arg === undefined) return
    if (arg.literal !== undefined) {
      if (/%[-.\d]*s/.test(arg.literal) && call.args.length > index + 1)
        walk.construct(arg.node, 134, "constant format", "the text is an argument, never the format")
      return
    }
    if (arg.key === undefined || arg.type.depth !== 1) return
    if (call.args.length > index + 1 && !walk.closed) return
    const edit: Edit = { start: arg.node.start, end: arg.node.start, text: '"%s", ' }
    walk.report({
      cwe: 134,
      severity: "critical",
      message: `${norm(arg.node)} is used as a format`,
      node,
      fixes: [[edit]]
    })
  }

export const fgets = (call: Call): void => {
  const [target] = call.args
  if (target?.key !== undefined) {
    call.state.forget(`strlen(${target.key})`)
    const { unset: _unset, ...rest } = call.state.cell(target.key)
    call.state.cells.set(target.key, rest)
    call.state.update(target.key, { pending: { call: call.atom, least: 1, node: call.node } })
  }
  creditTest(call)
}

export const overflowBuiltin = (call: Call): void => {
  const target = call.args[2]?.key
  if (target?.startsWith("&")) {
    call.state.forget(target.slice(1))
    call.state.cells.delete(target.slice(1))
  }
  const holder = enclosing(call.node, "if_statement", "conditional_expression")
  if (
    holder !== undefined &&
    part(holder, "condition") !== undefined &&
    call.node.end <= (part(holder, "condition")?.end ?? 0)
  )
    call.walk.construct(holder, 190, "overflow precheck", "the operation reports its own overflow")
  else if (call.node.parent?.type === "expression_statement")
    call.walk.report({
      cwe: 190,
      severity: "high",
      message: "the overflow report is ignored",
      node: call.node,
      fixes: [[replaceNode(call.node.parent, `if (${call.node.text}) ${errorReturn(call.walk, call.state)}`)]]
    })
}
