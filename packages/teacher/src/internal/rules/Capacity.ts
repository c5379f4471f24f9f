/** How much an array holds, and how to write a linear form back as C. */
import { atom, constant, type Linear, plus, times } from "./Linear.ts"
import type { State } from "./State.ts"
import { pointeeBytes } from "./Types.ts"
import type { Value, Walk } from "./Walk.ts"

/** `form` counts units; one element takes `unit` of them. */
export interface Capacity {
  readonly form: Linear
  readonly unit: number
  readonly heap: boolean
}

const writeSize = /^(cap|max|room|size|limit|space|avail|capacity|dst_?len|out_?len|.*(_max|_cap|_size))$/i

/**
 * What a pointer is known to hold: a declared array, an allocated block, or a size parameter. For a parameter the size
 * is by convention the next integer parameter that is no part of the index; a capacity by name is preferred for writes.
 */
export const capacities = (
  walk: Walk,
  base: Value,
  index: Linear,
  write: boolean,
  state: State
): ReadonlyArray<Capacity> => {
  const { key } = base
  if (key === undefined) return []
  const block = state.cell(key).block
  if (block !== undefined) {
    const each = pointeeBytes(base.type)
    if (block.kind === "array" && block.elements !== undefined) return [{ form: block.elements, unit: 1, heap: false }]
    if (block.bytes !== undefined && each !== undefined) return [{ form: block.bytes, unit: each, heap: true }]
    if (block.elements !== undefined) return [{ form: block.elements, unit: 1, heap: true }]
    return []
  }
  const found: Array<Capacity> = []
  const at = walk.header.params.findIndex((p) => p.name === key)
  if (at >= 0) {
    const sizes = walk.header.params.filter((p, i) => i > at && p.type.depth === 0 && p.type.base === "int")
    const free = sizes.filter((p) => !index.terms.has(p.name))
    const chosen = (write ? sizes.find((p) => writeSize.test(p.name)) : undefined) ?? free[0] ?? sizes[0]
    if (chosen !== undefined) found.push({ form: atom(chosen.name), unit: 1, heap: false })
  }
  if (walk.closed && base.type.base === "char" && base.type.depth === 1 && !write)
    found.push({ form: plus(atom(`strlen(${key})`), constant(1)), unit: 1, heap: false })
  found.push({ form: atom(`held:${key}`), unit: 1, heap: false })
  return found
}

/** The form in terms of the values at the function's entry, when the facts lead back there; else undefined. */
export const entryForm = (lin: Linear, state: State): Linear | undefined => {
  let form = lin
  let moved = false
  for (const [name, coefficient] of lin.terms) {
    const fact = state.facts.find(
      (f) => f.form.terms.size === 2 && f.form.terms.get(name) === 1 && f.form.terms.get(`entry:${name}`) === -1
    )
    if (fact === undefined || fact.form.constant === 0) continue
    // name = entry − constant
    form = plus(plus(form, atom(name), -coefficient), atom(`entry:${name}`), coefficient)
    form = { ...form, constant: form.constant - coefficient * fact.form.constant }
    moved = true
  }
  if (!moved) return undefined
  return {
    constant: form.constant,
    terms: new Map([...form.terms].map(([name, c]) => [name.replace(/^entry:/, ""), c]))
  }
}

/** Replaces atoms that the reader of a statement cannot use (`strlen(p)` of a fresh block) by what they equal. */
export const resolve = (lin: Linear, state: State, unwanted: (name: string) => boolean): Linear => {
  let form = lin
  for (let round = 0; round < 4; round++) {
    const name = [...form.terms.keys()].find(unwanted)
    if (name === undefined) return form
    const coefficient = form.terms.get(name) ?? 0
    const fact = state.facts.find(
      (f) => f.form.terms.get(name) === 1 && ![...f.form.terms.keys()].some((n) => n !== name && unwanted(n))
    )
    if (fact === undefined) return form
    form = plus(form, times(fact.form, -coefficient))
  }
  return form
}

/** Whether the text has an operator outside its parentheses, so that it needs some before another one. */
const isOperation = (name: string): boolean => {
  let text = name.replaceAll("->", ".").replace(/^[*&]+/, "")
  for (let before = ""; before !== text; ) {
    before = text
    text = text.replace(/\([^()]*\)|\[[^[\]]*\]/g, "")
  }
  return /[-+/*%&|^<>=?:]/.test(text)
}

/** C source of the form, or undefined when an atom of it has no C text. */
export const render = (lin: Linear): string | undefined => {
  let text = ""
  const terms = [...lin.terms].sort(([, a], [, b]) => b - a)
  for (const [name, coefficient] of terms) {
    if (/^(entry|held):|@/.test(name)) return undefined
    const size = Math.abs(coefficient)
    const operand = isOperation(name) ? `(${name})` : name
    const piece = size === 1 ? operand : `${size} * ${operand}`
    text += text === "" ? (coefficient < 0 ? `-${piece}` : piece) : coefficient < 0 ? ` - ${piece}` : ` + ${piece}`
  }
  if (text === "") return String(lin.constant)
  if (lin.constant === 0) return text
  return `${text} ${lin.constant < 0 ? "-" : "+"} ${Math.abs(lin.constant)}`
}
