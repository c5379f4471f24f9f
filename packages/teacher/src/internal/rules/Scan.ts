/**
 * Scans one function: findings (sinks without a proof) and constructs (what proved the others).
 *
 * Three outcomes, never two: `unreadable` (no signal), `broken` (it parses, but an unknown name or an unused parameter
 * shows that it does not do its task), `scanned`.
 */
import type { CweId } from "@srcode/domain"
import type { Parser } from "web-tree-sitter"
import { bare, enclosing, findAll, type Node, norm, parseTree, part } from "./Ast.ts"
import { leave } from "./Exits.ts"
import { guard } from "./Fixes.ts"
import { flaw } from "./Flaws.ts"
import { atom, minus, times } from "./Linear.ts"
import { State } from "./State.ts"
import { execute } from "./Statements.ts"
import { functionsOf, type Header, standsAlone } from "./Types.ts"
import { type Construct, type RuleFinding, Walk } from "./Walk.ts"

export interface Scan {
  readonly source: string
  readonly header: Header
  readonly walk: Walk
  readonly findings: ReadonlyArray<RuleFinding>
  readonly constructs: ReadonlyArray<Construct>
  /** Why a lone program does not count although it parses, or undefined. */
  readonly broken: string | undefined
  /** The parser had to skip something. */
  readonly hasError: boolean
  /** Characters put before the source so that it could be read: a lost return type. */
  readonly added: number
}

export type ScanResult = { readonly scan: Scan } | { readonly unreadable: string }

export interface ScanOptions {
  /** Scan the function that covers this offset; otherwise the last function with a body. */
  readonly at?: number
  /** Accept text in which the parser had to skip something, when a function is found all the same. */
  readonly lenient?: boolean
  /** Claimed classes, for which weaker signs are enough. */
  readonly focus?: ReadonlyArray<CweId>
}

export const scanSource = (parser: Parser, source: string, options: ScanOptions = {}): ScanResult => {
  if (source.length > 200_000) return { unreadable: "the text is longer than 200,000 characters" }
  const parsed = parseTree(parser, source)
  if (parsed === undefined) return { unreadable: "the parser gave up" }
  if (parsed.hasError && options.lenient !== true)
    return { unreadable: "it does not parse: braces or statements are incomplete" }
  const functions = functionsOf(parsed.root)
  const { at } = options
  const header =
    (at === undefined ? undefined : functions.find((f) => f.node.start <= at && at <= f.node.end)) ?? functions.at(-1)
  if (header === undefined) return withReturnType(parser, source, options)
  const request = source.slice(0, header.node.start)
  const closed = /^\s*\/\/[^\n]*\s*$/.test(request) && standsAlone(header)
  const walk = new Walk(source, header, request, closed, options.focus ?? [])
  run(walk)
  const broken = closed ? flaw(walk) : undefined
  return {
    scan: {
      source,
      header,
      walk,
      findings: walk.findings,
      constructs: walk.constructs,
      broken,
      hasError: parsed.hasError,
      added: 0
    }
  }
}

/** Collections of single functions often lose the line that holds the return type. */
const withReturnType = (parser: Parser, source: string, options: ScanOptions): ScanResult => {
  const lost = options.lenient === true && /^\s*[A-Za-z_]\w*\s*\(/.test(source)
  if (!lost) return { unreadable: "there is no function with a body in it" }
  const added = "int "
  const result = scanSource(parser, added + source, options)
  return "unreadable" in result ? result : { scan: { ...result.scan, added: added.length } }
}

const run = (walk: Walk): void => {
  const { header } = walk
  const state = new State()
  for (const key of countedMembers(header.body)) {
    const [place, held] = key
    // A container's count lies between nothing and what it holds: true on entry, and only then.
    state.learn(times(atom(place), -1), null)
    state.learn(minus(atom(place), atom(`held:${held}`)), null)
    const same = minus(atom(place), atom(`entry:${place}`))
    state.learn(same, null)
    state.learn(times(same, -1), null)
  }
  const end = execute(walk, header.body, state)
  walk.fallsOff = end !== null
  if (end !== null) leave(walk, header.body, undefined, end)
  absentArgument(walk)
  constantStarts(walk)
  resets(walk)
}

/** Members and dereferences used as an index, each with the array they index. */
const countedMembers = (body: Node): ReadonlyArray<readonly [string, string]> => {
  const found = new Map<string, string>()
  for (const access of findAll(body, "subscript_expression")) {
    const [base, index] = access.children
    if (base === undefined || index === undefined) continue
    for (const node of findAll(index, "field_expression", "pointer_expression")) {
      const held = norm(base)
      if (node.op === "&" || found.has(norm(node))) continue
      const sameOwner =
        node.type === "field_expression" ? ownerOf(norm(node)) === ownerOf(held) : /^\*[a-z_]\w*$/i.test(norm(node))
      const isText = /\bchar\b/.test(node.text)
      if (sameOwner && !isText) found.set(norm(node), held)
    }
  }
  return [...found]
}

const ownerOf = (key: string): string => key.replace(/(->|\.)\w+$/, "")

/**
 * A function of one pointer to const, asked to answer for the case that there is nothing: that pointer may be NULL, and
 * so may a pointer member it is followed to.
 */
const absentArgument = (walk: Walk): void => {
  const [param] = walk.header.params
  if (
    param === undefined ||
    walk.header.params.length !== 1 ||
    param.type.depth !== 1 ||
    !param.type.isConst ||
    !walk.closed
  )
    return
  if (!/\b(none|missing|without|absent|nothing|no (string|text|node|data|list))\b/.test(walk.request)) return
  for (const [key, node] of walk.bareParams)
    walk.report({
      cwe: 476,
      severity: "high",
      message: `${key} may be NULL here`,
      node,
      fixes: [guard(walk, node, `!${key}`, new State())]
    })
}

/** `int r = -1;` where later branches set r: it has a value on every path. */
const constantStarts = (walk: Walk): void => {
  for (const declarator of findAll(walk.header.body, "init_declarator")) {
    const name = part(declarator, "declarator")
    const value = part(declarator, "value")
    const declaration = declarator.parent
    if (name?.type !== "identifier" || value === undefined || declaration?.parent !== walk.header.body) continue
    if (!/^-?\w+$/.test(value.text)) continue
    const sets = findAll(walk.header.body, "assignment_expression").filter(
      (a) => a.op === "=" && part(a, "left")?.text === name.text
    )
    const conditional = sets.some((a) => enclosing(a, "if_statement", "case_statement") !== undefined)
    if (
      conditional &&
      sets.every(
        (a) => enclosing(a, "if_statement", "case_statement", "for_statement", "while_statement") !== undefined
      )
    )
      walk.construct(declaration, 457, "initialised local", `${name.text} has a value on every path`)
  }
}

/** `free(x); … x = NULL` (or another block): the freed pointer is not kept. */
const resets = (walk: Walk): void => {
  for (const call of findAll(walk.header.body, "call_expression")) {
    if (call.children[0]?.text !== "free") continue
    const freed = part(call, "arguments")?.children[0]
    if (freed === undefined || bare(freed).type === "identifier") continue
    const reset = findAll(walk.header.body, "assignment_expression").find(
      (a) => a.start > call.end && norm(part(a, "left") ?? a) === norm(freed)
    )
    if (reset?.parent?.type === "expression_statement")
      walk.construct(reset.parent, 415, "pointer cleared", `${norm(freed)} does not keep the freed block`)
  }
}
