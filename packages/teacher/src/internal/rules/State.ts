/**
 * What is known at one point of a function: linear facts, flags about pointers and strings, and the life of variables.
 *
 * A state is owned by the walk that holds it and changed in place; branches copy it. Joining keeps what both branches
 * know (facts, flags) and what either suspects (uninitialised, freed, maybe NULL, still allocated).
 */
import type { Node } from "./Ast.ts"
import type { Fact, Linear } from "./Linear.ts"
import { shape } from "./Linear.ts"

/** The piece of source that established a fact: `node` is the whole check, `leaf` the comparison itself. */
export interface Guard {
  readonly node: Node
  readonly leaf: Node
  readonly kind: "exit" | "branch" | "loop" | "value"
}

export type Known = Fact<Guard | null>

/** A block of memory: how many elements of the pointer's type it holds, when that is a linear form. */
export interface Block {
  readonly elements: Linear | undefined
  readonly bytes: Linear | undefined
  readonly node: Node
  readonly kind: "heap" | "file" | "array"
}

/** The life of one variable or member, by its normalised text. */
export interface Cell {
  readonly uninitialised?: Node
  /** A text buffer that nothing was written to yet. */
  readonly unset?: Node
  /** May be NULL: the call it came from. */
  readonly nullable?: Node
  readonly freed?: Node
  readonly block?: Block
  /** True while this variable is the one owner of a heap block or file. */
  readonly owned?: boolean
  /** The results of an input call that must be checked before this is read: the call's atom and the least good value. */
  readonly pending?: { readonly call: string; readonly least: number; readonly node: Node }
  /** Text copied or formatted into this buffer: the source expressions. */
  readonly parts?: ReadonlyArray<string>
  /** A buffer that may lack its final zero since this call. */
  readonly unterminated?: Node
  /** The result of a search in `text`: NULL means that none of `missing` is in it. */
  readonly search?: { readonly text: string; readonly missing: ReadonlyArray<string> }
  /** The variable holds the same pointer as this key. */
  readonly alias?: string
}

/** What is remembered at one point. Very long functions forget their oldest: a proof may fail, or a finding be missed. */
const mostFacts = 60
const mostFlags = 120
const mostCells = 160

const dropOldest = (map: Map<string, unknown>, most: number): void => {
  if (map.size <= most) return
  const oldest = map.keys().next().value
  if (oldest !== undefined) map.delete(oldest)
}

export class State {
  facts: Array<Known>
  flags: Map<string, Guard | null>
  cells: Map<string, Cell>

  constructor(facts: Array<Known> = [], flags = new Map<string, Guard | null>(), cells = new Map<string, Cell>()) {
    this.facts = facts
    this.flags = flags
    this.cells = cells
  }

  copy(): State {
    return new State([...this.facts], new Map(this.flags), new Map(this.cells))
  }

  cell(key: string): Cell {
    return this.cells.get(key) ?? {}
  }

  update(key: string, change: Cell): void {
    this.cells.set(key, { ...this.cell(key), ...change })
    dropOldest(this.cells, mostCells)
  }

  /** form ≤ 0 */
  learn(form: Linear, origin: Guard | null): void {
    if (form.terms.size > 0 && form.terms.size < 6) this.facts.push({ form, origin })
    if (this.facts.length > mostFacts) this.facts.splice(0, this.facts.length - mostFacts)
  }

  flag(name: string, origin: Guard | null): void {
    if (this.flags.has(name)) return
    this.flags.set(name, origin)
    dropOldest(this.flags, mostFlags)
  }

  /** Forgets all that mentions `key` (a variable, member or dereference), because it was assigned. */
  forget(key: string, keepFacts: (form: Linear, atom: string) => boolean = () => false): void {
    this.facts = this.facts.filter((fact) => {
      for (const name of fact.form.terms.keys()) if (mentions(name, key) && !keepFacts(fact.form, name)) return false
      return true
    })
    for (const name of [...this.flags.keys()])
      if (mentions(name.slice(name.indexOf(":") + 1), key)) this.flags.delete(name)
    for (const name of [...this.cells.keys()]) if (name !== key && mentions(name, key)) this.cells.delete(name)
  }

  /** `key` grew by `by`: facts about it move along, everything else about it is forgotten. */
  shifted(key: string, by: number): void {
    const moved = this.facts.flatMap((fact): ReadonlyArray<Known> => {
      const own = fact.form.terms.get(key) ?? 0
      for (const name of fact.form.terms.keys()) if (name !== key && mentions(name, key)) return []
      // old = new − by
      return [own === 0 ? fact : { ...fact, form: { ...fact.form, constant: fact.form.constant - own * by } }]
    })
    this.facts = []
    this.forget(key)
    this.facts = moved
  }
}

const word = /[A-Za-z0-9_]/
const cache = new Map<string, boolean>()

/** Whether the expression text `name` uses `key` as a whole operand (a member of the same name does not count). */
export const mentions = (name: string, key: string): boolean => {
  // What a place held on entry does not change.
  if (name.startsWith("entry:") || !name.includes(key)) return false
  const known = cache.get(`${name}\n${key}`)
  if (known !== undefined) return known
  let found = false
  for (let at = name.indexOf(key); at >= 0 && !found; at = name.indexOf(key, at + 1)) {
    const before = name.charAt(at - 1)
    const after = name.charAt(at + key.length)
    const startsWord = word.test(key.charAt(0))
    const member = before === "." || (before === ">" && name.charAt(at - 2) === "-")
    found =
      !(startsWord && (word.test(before) || member)) && !(word.test(key.charAt(key.length - 1)) && word.test(after))
  }
  if (cache.size > 20_000) cache.clear()
  cache.set(`${name}\n${key}`, found)
  return found
}

export const join = (a: State | null, b: State | null): State | null => {
  if (a === null || b === null) return a ?? b
  const flags = new Map([...a.flags].filter(([name]) => b.flags.has(name)))
  const cells = new Map<string, Cell>()
  for (const key of new Set([...a.cells.keys(), ...b.cells.keys()])) {
    const left = a.cells.get(key) ?? {}
    const right = b.cells.get(key) ?? {}
    // A pointer known to be NULL on one side owns nothing there: the other side decides.
    const owned = left.owned === true || right.owned === true
    cells.set(key, { ...right, ...left, owned })
  }
  return new State(sharedFacts(a.facts, b.facts), flags, cells)
}

/** What both know: of facts over the same terms the weaker one (the smaller constant in `form ≤ 0`) holds in both. */
const sharedFacts = (a: ReadonlyArray<Known>, b: ReadonlyArray<Known>): Array<Known> => {
  if (a === b) return [...a]
  const strongest = new Map<string, number>()
  for (const { form } of b) {
    const terms = shape(form)
    strongest.set(terms, Math.max(strongest.get(terms) ?? Number.NEGATIVE_INFINITY, form.constant))
  }
  const kept: Array<Known> = []
  const missed: Array<Known> = []
  for (const fact of a) {
    const other = strongest.get(shape(fact.form))
    if (other === undefined) continue
    if (fact.form.constant <= other) kept.push(fact)
    else missed.push({ form: { ...fact.form, constant: other }, origin: fact.origin })
  }
  return [...kept, ...missed]
}
