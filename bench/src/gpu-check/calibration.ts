/** Which rungs of the products this device is fastest with, as later sections then use them. */
import { Calibration } from "@srcode/gpu"
import { Effect } from "effect"
import { Report } from "./Report.ts"

/** Seconds to end in after the last rung was begun. */
const slack = 6

export const calibration = Effect.gen(function* () {
  const report = yield* Report
  const seconds = Math.max(1, (yield* report.left) - slack)
  const record = yield* Calibration.calibrated({ seconds })
  // Drivers that compute on the processor need none.
  yield* report.set("calibration", record ?? null)
})
