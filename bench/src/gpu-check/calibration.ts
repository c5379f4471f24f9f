/** Which rungs of the products this device is fastest with, as later sections then use them. */
import { Calibration } from "@srcode/gpu"
import { Effect } from "effect"
import { Report } from "./Report.ts"

export const calibration = Effect.gen(function* () {
  const report = yield* Report
  const record = yield* Calibration.calibrated()
  // Drivers that compute on the processor need none.
  yield* report.set("calibration", record ?? null)
})
