/** All families in their fixed order: the order is part of the corpus (draws depend on it). */
import type { Family } from "../Family.ts"
import { allocationFamilies } from "./allocation.ts"
import { boundsFamilies } from "./bounds.ts"
import { injectionFamilies } from "./injection.ts"
import { integerFamilies } from "./integers.ts"
import { lifetimeFamilies } from "./lifetime.ts"
import { pointerFamilies } from "./pointers.ts"
import { readFamilies } from "./reads.ts"
import { resultFamilies } from "./results.ts"
import { stringFamilies } from "./strings.ts"

export const families: ReadonlyArray<Family> = [
  ...boundsFamilies,
  ...readFamilies,
  ...stringFamilies,
  ...integerFamilies,
  ...pointerFamilies,
  ...allocationFamilies,
  ...lifetimeFamilies,
  ...injectionFamilies,
  ...resultFamilies
]
