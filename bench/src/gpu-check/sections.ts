/** What a check consists of, in the order of what would be missed most. */
import type { NodeServices } from "@effect/platform-node"
import type { Gpu } from "@srcode/gpu"
import type { Effect, Scope } from "effect"
import { calibration } from "./calibration.ts"
import { capabilities } from "./capabilities.ts"
import { attentionLadder, productLadder } from "./ladder.ts"
import { consistency, decoding, smallModel, training } from "./models.ts"
import type { Report } from "./Report.ts"
import { robustness } from "./robustness.ts"
import { productVerification, verification } from "./verification.ts"

export interface Section {
  readonly name: string
  /** Its part of the time; all of them together make 480 seconds. */
  readonly part: number
  /** Whole models run as they do for users: with the rungs that calibration found. */
  readonly tuned?: boolean
  readonly run: Effect.Effect<void, unknown, Gpu | Report | NodeServices.NodeServices | Scope.Scope>
}

export const sections: ReadonlyArray<Section> = [
  { name: "capabilities", part: 25, run: capabilities },
  { name: "calibration", part: 65, run: calibration },
  { name: "training", part: 80, tuned: true, run: training },
  { name: "decoding", part: 55, tuned: true, run: decoding },
  { name: "verification", part: 40, run: verification },
  { name: "products", part: 70, run: productVerification },
  { name: "robustness", part: 25, run: robustness },
  { name: "matmul", part: 50, run: productLadder },
  { name: "attention", part: 20, run: attentionLadder },
  { name: "consistency", part: 20, tuned: true, run: consistency },
  { name: "small", part: 30, tuned: true, run: smallModel }
]
