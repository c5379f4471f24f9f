/**
 * Signs that a lone program cannot be right, whatever its sinks: it would not compile, it ends without its value, part
 * of it is never reached, or it ignores what it was given.
 */
import { enclosing, type Node, part } from "./Ast.ts"
import { declared, isKnownName, typeWords } from "./Types.ts"
import type { Walk } from "./Walk.ts"

export const flaw = (walk: Walk): string | undefined => {
  const { header } = walk
  const names = new Names([...header.params.map((p) => p.name), header.name])
  names.read(header.body)
  if (names.unknown !== undefined) return `it uses ${names.unknown}, which nothing declares before`
  const idle = header.params.find((p) => !names.used.has(p.name))
  if (idle !== undefined) return `it leaves the parameter ${idle.name} unused`
  const returns = header.returns.base !== "void" || header.returns.depth > 0
  if (returns && walk.fallsOff) return "it can end without returning a value"
  if (walk.unreached !== undefined)
    return `\`${walk.unreached.text.split("\n")[0]?.slice(0, 40)}\` can never be reached`
  return undefined
}

/** Reads a body in order with its scopes: what is used, and the first name used where nothing declares it. */
class Names {
  readonly used = new Set<string>()
  unknown: string | undefined
  private scopes: Array<Set<string>>

  constructor(given: ReadonlyArray<string>) {
    this.scopes = [new Set(given)]
  }

  read(node: Node): void {
    if (node.type === "identifier") this.use(node)
    else if (node.type === "declaration") this.introduce(node)
    else if (node.type === "compound_statement" || node.type === "for_statement") {
      this.scopes.push(new Set())
      for (const child of node.children) this.read(child)
      this.scopes.pop()
    } else for (const child of node.children) this.read(child)
  }

  private introduce(node: Node): void {
    for (const child of node.children.filter((c) => c.field === "declarator")) {
      const target = child.type === "init_declarator" ? part(child, "declarator") : child
      const name = target === undefined ? undefined : declared(typeWords(node), target)
      if (name !== undefined) this.scopes.at(-1)?.add(name.name)
      if (name?.size !== undefined) this.read(name.size)
      const value = child.type === "init_declarator" ? part(child, "value") : undefined
      if (value !== undefined) this.read(value)
    }
  }

  private use(node: Node): void {
    if (node.parent?.type === "goto_statement" || node.field === "label") return
    this.used.add(node.text)
    if (this.scopes.some((scope) => scope.has(node.text)) || isKnownName(node.text)) return
    // Inside sizeof a plain identifier may be the name of a type.
    if (enclosing(node, "sizeof_expression") === undefined) this.unknown ??= node.text
  }
}
