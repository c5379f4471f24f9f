/**
 * Integer linear forms over named atoms and a small prover for `form ≤ 0`.
 *
 * Method: a goal follows when it is a non-negative combination of known facts; the search cancels one atom of the goal
 * after another with a fact that holds it, up to four facts deep. Complete enough for guards people write, and cheap.
 */

export interface Linear {
  readonly constant: number
  /** Atom → non-zero coefficient. */
  readonly terms: ReadonlyMap<string, number>
}

export const constant = (value: number): Linear => ({ constant: value, terms: new Map() })
export const atom = (name: string): Linear => ({ constant: 0, terms: new Map([[name, 1]]) })

/** a + scale·b */
export const plus = (a: Linear, b: Linear, scale = 1): Linear => {
  if (scale === 0) return a
  const terms = new Map(a.terms)
  for (const [name, coefficient] of b.terms) {
    const sum = (terms.get(name) ?? 0) + scale * coefficient
    if (sum === 0) terms.delete(name)
    else terms.set(name, sum)
  }
  return { constant: a.constant + scale * b.constant, terms }
}

export const minus = (a: Linear, b: Linear): Linear => plus(a, b, -1)
export const shift = (a: Linear, by: number): Linear => ({ constant: a.constant + by, terms: a.terms })
export const times = (a: Linear, by: number): Linear => plus(constant(0), a, by)
export const isConstant = (a: Linear): boolean => a.terms.size === 0

/** The single atom of a form `x + c`, or undefined. */
export const soleAtom = (a: Linear): string | undefined => {
  if (a.terms.size !== 1) return undefined
  for (const [name, coefficient] of a.terms) if (coefficient === 1) return name
  return undefined
}

const shapes = new WeakMap<Linear["terms"], string>()

/** The terms as text, the same for equal terms; kept, since joins compare the same forms again and again. */
export const shape = (a: Linear): string => {
  const known = shapes.get(a.terms)
  if (known !== undefined) return known
  const text = [...a.terms]
    .sort(([x], [y]) => (x < y ? -1 : 1))
    .map(([name, c]) => `${c}*${name}`)
    .join("+")
  shapes.set(a.terms, text)
  return text
}

export const show = (a: Linear): string => `${shape(a)}+${a.constant}`

/** `form ≤ 0` is known, because of `origin`. */
export interface Fact<Origin> {
  readonly form: Linear
  readonly origin: Origin
}

/** The origins of the facts that imply `goal ≤ 0`, or undefined when none do within the budget. */
export const prove = <Origin>(
  goal: Linear,
  facts: ReadonlyArray<Fact<Origin>>,
  depth = 4
): ReadonlyArray<Origin> | undefined => {
  let budget = 400
  const search = (rest: Linear, left: number, used: ReadonlyArray<Origin>): ReadonlyArray<Origin> | undefined => {
    if (rest.terms.size === 0) return rest.constant <= 0 ? used : undefined
    if (left === 0 || budget-- <= 0 || rest.terms.size > 5) return undefined
    for (const [name, coefficient] of rest.terms) {
      for (const fact of facts) {
        const theirs = fact.form.terms.get(name)
        if (theirs === undefined || theirs * coefficient <= 0 || coefficient % theirs !== 0) continue
        const found = search(plus(rest, fact.form, -(coefficient / theirs)), left - 1, [...used, fact.origin])
        if (found !== undefined) return found
      }
      // Every proof must cancel this atom: when no fact does, no other order will.
      return undefined
    }
    return undefined
  }
  return search(goal, depth, [])
}
