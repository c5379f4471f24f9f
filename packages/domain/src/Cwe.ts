/**
 * Weakness classes of the Common Weakness Enumeration (https://cwe.mitre.org), as this project names and groups them.
 *
 * Unusual: tools disagree on the exact number for one flaw (CodeQL says 120, an execution oracle says 787), so
 * comparisons go through `cweFamily`, which folds the numbers that mean the same to a repair.
 */
import { Schema } from "effect"

/** `"CWE-787"`: the prefix and a positive decimal number without leading zeros. */
export const CweId = Schema.String.check(Schema.isPattern(/^CWE-[1-9][0-9]{0,4}$/)).pipe(Schema.brand("CweId"))
export type CweId = typeof CweId.Type

/** Builds the id from its number: `cwe(787)` is `"CWE-787"`. */
export const cwe = (number: number): CweId => CweId.make(`CWE-${number}`)

/** The number inside an id. */
export const cweNumber = (id: CweId): number => Number(id.slice(4))

/**
 * Reads the spellings found in the wild (`CWE-787`, `cwe787`, `external/cwe/cwe-078`, `787`); `undefined` when there is
 * no number in it.
 */
export const parseCwe = (text: string): CweId | undefined => {
  const match = /(?:^|cwe[-_ ]?)0*([1-9][0-9]{0,4})\b/i.exec(text.trim())
  return match?.[1] === undefined ? undefined : cwe(Number(match[1]))
}

const families: ReadonlyArray<readonly [string, ReadonlyArray<number>]> = [
  ["memory-bounds", [118, 119, 120, 121, 122, 124, 125, 126, 127, 129, 131, 170, 193, 786, 787, 788, 805, 806]],
  ["memory-lifetime", [415, 416, 562, 590, 672, 762, 825]],
  ["null-pointer", [252, 253, 476, 690]],
  ["integer", [190, 191, 192, 194, 195, 196, 197, 680, 681]],
  ["command-injection", [77, 78, 88]],
  ["format-string", [134]],
  ["resource-leak", [400, 401, 404, 770, 772, 775]],
  ["uninitialised", [456, 457, 665, 824, 908, 909]],
  ["path-traversal", [22, 23, 36, 73]],
  ["divide-by-zero", [369]],
  ["race", [362, 366, 367]],
  ["input-validation", [20, 1284]],
  ["information-leak", [200, 201, 209]],
  ["access-control", [264, 269, 284, 285, 287, 862, 863]]
]

/** The family a class belongs to; a class of no family is its own (`"CWE-611"`). */
export const cweFamily = (id: CweId): string => {
  const number = cweNumber(id)
  return families.find(([, members]) => members.includes(number))?.[0] ?? id
}

/** Whether two classes name the same kind of flaw for the purpose of a repair. */
export const sameCweFamily = (a: CweId, b: CweId): boolean => cweFamily(a) === cweFamily(b)

/**
 * The default working set: the 14 most frequent memory, integer, injection and resource classes of PrimeVul. The paper
 * keeps 14 classes and does not list them; this is a configurable choice, not a quotation.
 */
export const defaultCweSet: ReadonlyArray<CweId> = [
  787, 125, 119, 120, 416, 415, 476, 190, 401, 369, 22, 78, 134, 457
].map(cwe)
