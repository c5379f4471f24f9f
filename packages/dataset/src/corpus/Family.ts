/**
 * A family: one small C task with many surface forms, and the ways to do it right and wrong.
 *
 * Unusual: everything is text with two kinds of holes. `{x}` is a name or constant drawn once per problem from
 * `names.x`; `[a|b]` (requirements only) is a choice drawn per problem. Bodies are lines without indentation: the
 * renderer indents by brace depth and keeps extra leading blanks.
 */

export type Pool = readonly [string, ...ReadonlyArray<string>]

/** `idiom` names what makes the body right or wrong; `code` is its lines. */
export interface Body {
  readonly idiom: string
  readonly code: string
}

export interface Family {
  readonly name: string
  /** Number of the weakness class. */
  readonly cwe: number
  /** Requirements: they say what to do and which value means failure, never how to stay out of trouble. */
  readonly asks: Pool
  /** C signature without ` {`. */
  readonly signature: string
  /** Every hole used above and below; `f` is the function's name. */
  readonly names: Readonly<Record<string, Pool>>
  readonly secure: ReadonlyArray<Body>
  readonly vulnerable: ReadonlyArray<Body>
  /** C statements over the judge's prelude; they `return` a line number through CHECK when something is wrong. */
  readonly functional: string
  readonly security: string
}

/** Bodies from `idiom: code` entries, in order; several codes may share an idiom. */
export const bodies = (...entries: ReadonlyArray<readonly [idiom: string, code: string]>): ReadonlyArray<Body> =>
  entries.map(([idiom, code]) => ({ idiom, code }))

/** Name pools that many families share. */
export const pools = {
  array: ["a", "arr", "xs", "items"],
  count: ["n", "len", "size"],
  index: ["i", "k", "pos", "idx"],
  loop: ["j", "t", "u"],
  value: ["x", "val", "v"],
  target: ["dst", "out", "dest", "d"],
  capacity: ["cap", "max", "room"],
  text: ["s", "src", "txt", "str"],
  pointer: ["p", "q", "ptr"],
  result: ["r", "res", "y"],
  error: ["-1", "-2", "-3", "-9"],
  handle: ["fp", "h", "fh"]
} as const satisfies Record<string, Pool>

/** The part of a requirement that names the failure value. */
export const onError = "[return {e}|{e}|give {e}] on error"
