/** Which index or divisor is worth a finding in code whose surroundings are unknown. */
import type { Linear } from "./Linear.ts"
import type { Walk } from "./Walk.ts"

/** Constants of a project's headers look like names; only what is declared here, or reached from it, varies. */
export const isVariable = (walk: Walk, lin: Linear): boolean =>
  [...lin.terms.keys()].every((name) => walk.names.has(/[A-Za-z_]\w*/.exec(name)?.[0] ?? ""))

/** In code out of a larger project only an index that a caller controls, with nothing known about it, is a finding. */
export const isSuspect = (walk: Walk, lin: Linear): boolean => [...lin.terms.keys()].some((name) => walk.isParam(name))
