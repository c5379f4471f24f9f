/** Every variant of every operation against its oracle on this device, and which kernels that leaves untouched. */
import { Gpu, kernelNames, kernelSpec } from "@srcode/gpu"
import { Effect } from "effect"
import { hasMatrixUnits } from "../profile/ceilings.ts"
import { Report } from "./Report.ts"
import { attentionCases } from "./verify/attention.ts"
import { type CheckCase, checkCase, type Verdict, waysOf } from "./verify/harness.ts"
import { layerCases } from "./verify/layer.ts"
import { productCases } from "./verify/products.ts"
import { trainingCases } from "./verify/training.ts"

const round = (x: number): number => Number(x.toPrecision(3))

/** What a list of cases finds; `ours` tells which kernels they should reach. */
const check = Effect.fnUntraced(function* (
  casesOf: (large: boolean, matrix: boolean) => ReadonlyArray<CheckCase>,
  ours: (kernel: string) => boolean
) {
  const gpu = yield* Gpu
  const report = yield* Report
  const large = report.size === "full"
  const cases = casesOf(large, hasMatrixUnits(gpu.info))
  const ways = waysOf(gpu.info, large)
  const verdicts: Array<Verdict> = []
  for (const [i, one] of cases.entries()) {
    yield* checkCase(one, ways, (verdict) => {
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
        .filter((kernel) => ours(kernel) && !good.has(kernel))
        .map((kernel) => ({ kernel, needs: kernelSpec(kernel).features }))
    })
  }
})

const isProduct = (kernel: string): boolean => /^(matmul|lora)_/.test(kernel)

export const verification = check(
  (large, matrix) => [...trainingCases(matrix), ...layerCases(large), ...attentionCases(large)],
  (kernel) => !isProduct(kernel)
)

export const productVerification = check(productCases, isProduct)
