/**
 * Whether any kernel depends on Dawn's bringing indices back inside of buffers and arrays: the same cases on a device with and one without
 * it have to give the same bits, at shapes past the edges of tiles.
 */
import { Gpu, GpuDawn, type GpuError } from "@srcode/gpu"
import { Effect, type Scope } from "effect"
import { Report } from "./Report.ts"
import { attentionCases } from "./verify/attention.ts"
import { type CheckCase, choicesOf, eachChoice, reset, type Way, waysOf } from "./verify/harness.ts"
import { layerCases } from "./verify/layer.ts"
import { oneOfEach } from "./verify/products.ts"

interface Bits {
  readonly variant: string
  readonly kernels: ReadonlyArray<string>
  readonly words: ReadonlyArray<Uint32Array>
}

/** What every way leaves in every output of a case, or what went wrong. */
const bitsOf = (one: CheckCase, ways: ReadonlyArray<Way>): Effect.Effect<ReadonlyArray<Bits>, GpuError, Gpu | Report> =>
  Effect.gen(function* () {
    const gpu = yield* Gpu
    const { outputs, record } = yield* one.prepare
    const { choices } = yield* choicesOf(record, ways)
    const found: Array<Bits> = []
    yield* eachChoice(record, choices, ({ kernels, name: variant, ops }) =>
      Effect.gen(function* () {
        for (const output of outputs) yield* reset(output)
        yield* gpu.submit(`bits ${one.name}`, (tape) => record(tape, ops))
        const words = yield* Effect.forEach(outputs, ({ tensor }) => gpu.read({ ...tensor, element: "u32" as const }))
        found.push({ variant, kernels, words })
      })
    )
    return found
  }).pipe(Effect.scoped)

const same = (a: ReadonlyArray<Uint32Array>, b: ReadonlyArray<Uint32Array> | undefined): boolean =>
  b !== undefined &&
  a.length === b.length &&
  a.every((words, i) => words.length === b[i]?.length && words.every((word, j) => word === b[i]?.[j]))

/** Products, norms and the like, and attention in turn, so that being stopped leaves some of each; `few` of them are enough to try it out. */
const interleaved = (few: boolean): ReadonlyArray<CheckCase> => {
  const lists = few
    ? [oneOfEach().slice(0, 1), layerCases(false).slice(0, 4)]
    : [oneOfEach(), layerCases(false), attentionCases(false)]
  const longest = Math.max(...lists.map((list) => list.length))
  return Array.from({ length: longest }).flatMap((_, i) => lists.flatMap((list) => list.slice(i, i + 1)))
}

export const robustness: Effect.Effect<void, GpuError, Gpu | Report | Scope.Scope> = Effect.gen(function* () {
  const gpu = yield* Gpu
  const report = yield* Report
  const without = yield* GpuDawn.open({ device: report.device, disable_robustness: true })
  const ways = waysOf(gpu.info, report.size === "full")
  const cases = interleaved(report.size === "tiny")
  let compared = 0
  const different: Array<{ readonly case: string; readonly variant: string; readonly kernels: ReadonlyArray<string> }> =
    []
  for (const [i, one] of cases.entries()) {
    const work = Effect.gen(function* () {
      const bare = yield* bitsOf(one, ways).pipe(Effect.provideService(Gpu, without))
      for (const { kernels, variant, words } of yield* bitsOf(one, ways)) {
        compared++
        const other = bare.find((b) => b.variant === variant)
        if (!same(words, other?.words)) different.push({ case: one.name, variant, kernels })
      }
    })
    yield* work.pipe(Effect.catch((error) => report.add("problems", { part: one.name, problem: error.message })))
    yield* report.set("robustness", { cases: `${i + 1} of ${cases.length}`, compared, different })
  }
})
