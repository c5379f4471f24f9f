/** What is known without running anything: literals, named constants, sizes of types and objects. */
import { bare, findAll, type Node, norm, part } from "./Ast.ts"
import { atom, constant, isConstant } from "./Linear.ts"
import { bytesOf, type CType, pointeeBytes, sizeType, typeFrom } from "./Types.ts"
import type { Value, Walk } from "./Walk.ts"

/** The C library's constants, and what a 32-bit int can hold. */
export const namedConstants: Readonly<Record<string, number>> = {
  INT_MAX: 2147483647,
  INT_MIN: -2147483648,
  INT32_MAX: 2147483647,
  UINT_MAX: 4294967295,
  UINT32_MAX: 4294967295,
  CHAR_BIT: 8,
  CHAR_MAX: 127,
  UCHAR_MAX: 255,
  SHRT_MAX: 32767,
  true: 1,
  false: 0,
  EOF: -1
}

const escapes: Readonly<Record<string, number>> = { n: 10, t: 9, r: 13, "0": 0, a: 7, b: 8, f: 12, v: 11 }

export const characterCode = (text: string): number => {
  const inner = text.slice(text.indexOf("'") + 1, -1)
  if (!inner.startsWith("\\")) return inner.codePointAt(0) ?? 0
  if (inner[1] === "x") return Number.parseInt(inner.slice(2), 16)
  return /^\\[0-7]+$/.test(inner)
    ? Number.parseInt(inner.slice(1), 8)
    : (escapes[inner[1] ?? ""] ?? inner.charCodeAt(1))
}

/** Text inside the quotes of a string literal (adjacent literals joined), or undefined. */
export const literalText = (node: Node): string | undefined => {
  const inner = bare(node)
  if (inner.type === "string_literal") return inner.text.slice(inner.text.indexOf('"') + 1, -1)
  if (inner.type === "concatenated_string") return inner.children.map((c) => literalText(c) ?? "").join("")
  return undefined
}

export const sizeOf = (walk: Walk, node: Node): Value => {
  const operand = part(node, "value") ?? part(node, "type") ?? node.children[0]
  const inner = operand === undefined ? undefined : bare(operand)
  if (inner === undefined) return { node, type: sizeType }
  const named = walk.names.get(inner.text)
  if (named?.array === true && !walk.isParam(named.name)) {
    const size = named.size === undefined ? undefined : constantOf(walk, named.size)
    const each = pointeeBytes(named.type)
    if (size !== undefined && each !== undefined) return { node, type: sizeType, lin: constant(size * each) }
    return { node, type: sizeType, lin: atom(`sizeof(${inner.text})`) }
  }
  const type = named !== undefined ? named.type : typeOfOperand(walk, inner)
  const bytes = type === undefined ? undefined : bytesOf(type)
  return { node, type: sizeType, lin: bytes === undefined ? atom(`sizeof(${sizeName(walk, inner)})`) : constant(bytes) }
}

/** `sizeof(*p)`, `sizeof(p[0])` and `sizeof(struct node)` name the same size when p points to such a struct. */
const sizeName = (walk: Walk, operand: Node): string => {
  const type = typeOfOperand(walk, operand)
  return type?.base === "struct" || type?.base === "unknown"
    ? type.name === ""
      ? norm(operand)
      : type.name
    : norm(operand)
}

export const typeOfOperand = (walk: Walk, operand: Node): CType | undefined => {
  const inner = bare(operand)
  if (
    inner.type === "type_descriptor" ||
    inner.type.endsWith("type") ||
    inner.type === "type_identifier" ||
    inner.type === "struct_specifier"
  ) {
    const stars = findAll(inner, "abstract_pointer_declarator").length
    return typeFrom(inner.text.replace(/\*/g, ""), stars)
  }
  if (inner.type === "identifier") {
    // A bare typedef name parses as an identifier inside sizeof's parentheses.
    return walk.names.get(inner.text)?.type ?? typeFrom(inner.text, 0)
  }
  if (inner.type === "pointer_expression" || inner.type === "subscript_expression") {
    const base = inner.children[0]
    const type = base === undefined ? undefined : typeOfOperand(walk, base)
    return type === undefined ? undefined : { ...type, depth: type.depth + (inner.op === "&" ? 1 : -1) }
  }
  return undefined
}

export const constantOf = (walk: Walk, node: Node): number | undefined => {
  const inner = bare(node)
  if (inner.type === "number_literal") return Number(inner.text.replace(/[uUlL]+$/, ""))
  if (inner.type === "sizeof_expression") {
    const lin = sizeOf(walk, inner).lin
    return lin !== undefined && isConstant(lin) ? lin.constant : undefined
  }
  return namedConstants[inner.text]
}
