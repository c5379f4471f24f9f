/**
 * Every variant of every operation against its oracle on this device, and which kernels that leaves untouched. Products are told by rung:
 * where each was verified, where it failed, or why it cannot be run here.
 */
import { Gpu, kernelNames, kernelSpec, matmulVariants, unusable } from "@srcode/gpu"
import { Effect } from "effect"
import { hasMatrixUnits } from "../profile/ceilings.ts"
import { Report } from "./Report.ts"
import { attentionCases } from "./verify/attention.ts"
import { attentionNames, type CheckCase, checkCase, type Verdict, waysOf } from "./verify/harness.ts"
import { layerCases } from "./verify/layer.ts"
import { productCases } from "./verify/products.ts"
import { trainingCases } from "./verify/training.ts"

const round = (x: number): number => Number(x.toPrecision(3))

/** What is known of one variant by name. */
export interface Standing {
  readonly name: string
  /** Cases it passed, and those it did not. */
  readonly verified: number
  readonly failed: ReadonlyArray<string>
  /** Why it was not verified where it was not. */
  readonly reason?: string
}

const standing = (name: string, own: ReadonlyArray<Verdict>, unfit: string | undefined): Standing => {
  const verified = own.filter(({ ok }) => ok).length
  const failed = own.filter(({ ok }) => !ok).map((v) => `${v.case}: ${v.problem ?? `error ${round(v.error)}`}`)
  const reason = own.length > 0 ? undefined : (unfit ?? "no case that was run has led to it")
  return { name, verified, failed, ...(reason === undefined ? {} : { reason }) }
}

/** Kernels of attention by variant: forward ones say it in their names, all but the simplest. */
const attentionKernel = (variant: string): string =>
  variant === "invocation" ? "attention_forward" : `attention_forward_${variant}`

/** What a list of cases finds; `ours` tells which kernels they should reach. */
const check = Effect.fnUntraced(function* (
  casesOf: (large: boolean, matrix: boolean) => ReadonlyArray<CheckCase>,
  ours: (kernel: string) => boolean,
  standings: (verdicts: ReadonlyArray<Verdict>) => ReadonlyArray<Standing>
) {
  const gpu = yield* Gpu
  const report = yield* Report
  const large = report.size === "full"
  const cases = casesOf(large, hasMatrixUnits(gpu.info))
  const ways = waysOf(gpu.info, large)
  const verdicts: Array<Verdict> = []
  for (const [i, one] of cases.entries()) {
    const before = verdicts.length
    yield* checkCase(one, ways, (verdict) => {
      verdicts.push(verdict)
      return verdict.ok ? Effect.void : report.set("failing", verdict)
    })
    const good = new Set(verdicts.filter(({ ok }) => ok).flatMap(({ kernels }) => kernels))
    const summary = {
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
    }
    const fresh = verdicts.slice(before).map((verdict) => ({ ...verdict, error: round(verdict.error) }))
    yield* report.merge({ verdicts: fresh }, { variants: standings(verdicts), summary })
  }
})

const isProduct = (kernel: string): boolean => /^(matmul|lora)_/.test(kernel)

export const verification = check(
  // Attention first, where it takes no time to compile.
  (large, matrix) =>
    large
      ? [...attentionCases(large), ...layerCases(large), ...trainingCases(matrix)]
      : [...layerCases(large), ...trainingCases(matrix), ...attentionCases(large)],
  (kernel) => !isProduct(kernel),
  (verdicts) =>
    attentionNames.map((name) =>
      standing(
        name,
        verdicts.filter(({ kernels }) => kernels.includes(attentionKernel(name))),
        undefined
      )
    )
)

export const productVerification = Effect.flatMap(Gpu, ({ info }) =>
  check(productCases, isProduct, (verdicts) =>
    matmulVariants.map((variant) =>
      standing(
        variant,
        verdicts.filter(({ rungs }) => rungs.includes(variant)),
        unusable(info, variant)
      )
    )
  )
)
