/** Every variant of every operation against its oracle on this device, and which kernels that leaves untouched. */
import { Gpu, kernelNames, kernelSpec } from "@srcode/gpu"
import { Effect } from "effect"
import { matrixFeature } from "../profile/ceilings.ts"
import { Report } from "./Report.ts"
import { attentionCases } from "./verify/attention.ts"
import { checkCase, type Verdict } from "./verify/harness.ts"
import { layerCases } from "./verify/layer.ts"
import { productCases } from "./verify/products.ts"
import { trainingCases } from "./verify/training.ts"

const round = (x: number): number => Number(x.toPrecision(3))

export const verification = Effect.gen(function* () {
  const gpu = yield* Gpu
  const report = yield* Report
  const large = report.size === "full"
  const matrix = gpu.info.features.includes(matrixFeature)
  const verdicts: Array<Verdict> = []
  const cases = [...trainingCases(matrix), ...layerCases(large), ...attentionCases(large), ...productCases(large)]
  for (const [i, one] of cases.entries()) {
    yield* checkCase(one, (verdict) => {
      verdicts.push(verdict)
      return report.add("verdicts", { ...verdict, error: round(verdict.error) })
    })
    const good = new Set(verdicts.filter(({ ok }) => ok).flatMap(({ kernels }) => kernels))
    yield* report.set("summary", {
      cases: `${i + 1} of ${cases.length}`,
      passed: verdicts.filter(({ ok }) => ok).length,
      failed: verdicts
        .filter(({ ok }) => !ok)
        .map(({ case: name, error, problem, variant }) => ({ name, variant, error: round(error), problem })),
      worstError: round(Math.max(0, ...verdicts.filter(({ ok }) => ok).map(({ error }) => error))),
      // Left out by what this device can do, or by what there is no case for.
      untouched: kernelNames
        .filter((kernel) => !good.has(kernel))
        .map((kernel) => ({ kernel, needs: kernelSpec(kernel).features }))
    })
  }
})
