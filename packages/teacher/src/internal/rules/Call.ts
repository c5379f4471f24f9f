/** One call of a function with its arguments evaluated, as the library's rules see it. */
import type { Node } from "./Ast.ts"
import type { State } from "./State.ts"
import type { Value, Walk } from "./Walk.ts"

export interface Call {
  readonly walk: Walk
  readonly node: Node
  readonly name: string
  readonly args: ReadonlyArray<Value>
  /** The name its result is known by in facts. */
  readonly atom: string
  readonly state: State
}
