/** Sections that go wrong, for the test of the check: each leaves a finding first. */
import { Effect } from "effect"
import { Report } from "../src/gpu-check/Report.ts"
import type { Section } from "../src/gpu-check/sections.ts"

const found = Effect.gen(function* () {
  const report = yield* Report
  yield* report.add("holds", { what: "a section had begun", ok: true })
  yield* report.trying("a rung that is wrong")
})

export const sections: ReadonlyArray<Section> = [
  {
    name: "crash",
    part: 8,
    run: Effect.andThen(found, () => Effect.sync(() => process.kill(process.pid, "SIGSEGV")))
  },
  {
    name: "hang",
    part: 4,
    // As a driver hangs: neither timers nor signals are heard.
    run: Effect.andThen(found, () =>
      Effect.sync(() => {
        process.on("SIGTERM", () => undefined)
        for (;;);
      })
    )
  },
  { name: "after", part: 8, run: found }
]
