/** A section's findings in a few lines, and whether they are what they should be. */
import { Option, Schema } from "effect"

const Problems = Schema.optionalKey(Schema.Array(Schema.Struct({ part: Schema.String, problem: Schema.String })))

const Findings = Schema.Struct({
  problems: Problems,
  summary: Schema.optionalKey(
    Schema.Struct({
      cases: Schema.String,
      passed: Schema.Int,
      failed: Schema.Array(Schema.Struct({ name: Schema.String, variant: Schema.String })),
      worstError: Schema.Finite,
      untouched: Schema.Array(Schema.Struct({ kernel: Schema.String, needs: Schema.Array(Schema.String) }))
    })
  ),
  variants: Schema.optionalKey(
    Schema.Array(
      Schema.Struct({
        name: Schema.String,
        verified: Schema.Int,
        failed: Schema.Array(Schema.String),
        reason: Schema.optionalKey(Schema.String)
      })
    )
  ),
  robustness: Schema.optionalKey(
    Schema.Struct({
      cases: Schema.String,
      compared: Schema.Int,
      different: Schema.Array(Schema.Struct({ case: Schema.String, variant: Schema.String }))
    })
  ),
  progress: Schema.optionalKey(Schema.Struct({ title: Schema.String, run: Schema.Int, seconds: Schema.Finite })),
  calibration: Schema.optionalKey(
    Schema.NullOr(
      Schema.Struct({
        byClass: Schema.Record(Schema.String, Schema.String),
        dropped: Schema.Array(Schema.Struct({ variant: Schema.String, where: Schema.String, reason: Schema.String }))
      })
    )
  ),
  holds: Schema.optionalKey(Schema.Array(Schema.Struct({ what: Schema.String, ok: Schema.Boolean }))),
  matmul: Schema.optionalKey(
    Schema.Array(
      Schema.Struct({
        name: Schema.String,
        m: Schema.Int,
        storage: Schema.String,
        kernels: Schema.Array(Schema.String),
        seconds: Schema.Finite,
        gflops: Schema.Finite,
        gigabytesPerSecond: Schema.Finite
      })
    )
  ),
  attention: Schema.optionalKey(
    Schema.Array(
      Schema.Struct({
        name: Schema.String,
        sequences: Schema.Int,
        length: Schema.Int,
        kernels: Schema.Array(Schema.String),
        seconds: Schema.Finite,
        gflops: Schema.Finite
      })
    )
  ),
  work: Schema.optionalKey(
    Schema.Array(
      Schema.Struct({
        title: Schema.String,
        tokensPerSecond: Schema.Finite,
        seconds: Schema.Struct({ median: Schema.Finite }),
        deviceSeconds: Schema.NullOr(Schema.Finite),
        ceilingShare: Schema.NullOr(Schema.Finite),
        dispatchesPerStepAndLayer: Schema.Finite,
        training: Schema.optionalKey(Schema.Array(Schema.Struct({ loss: Schema.Finite, gradNorm: Schema.Finite })))
      })
    )
  ),
  ceilings: Schema.optionalKey(
    Schema.Struct({
      bytesPerSecond: Schema.Finite,
      flopsPerSecond: Schema.Finite,
      matrixFlopsPerSecond: Schema.Finite
    })
  )
})

const giga = (x: number): string => (x / 1e9).toFixed(0)
const ms = (seconds: number): string => `${(seconds * 1e3).toPrecision(3)} ms`

/** `found` is what a section left, null when it left nothing. */
export const summarise = (
  name: string,
  found: unknown
): { readonly lines: ReadonlyArray<string>; readonly ok: boolean } => {
  const decoded = Schema.decodeUnknownOption(Findings)(found)
  if (Option.isNone(decoded)) return { lines: [`${name} left nothing that can be read`], ok: false }
  const {
    attention = [],
    calibration,
    ceilings,
    holds = [],
    matmul = [],
    problems = [],
    progress,
    robustness,
    summary,
    variants = [],
    work = []
  } = decoded.value
  const lines: Array<string> = problems.map(
    ({ part, problem }) => `PROBLEM ${part}: ${problem.split("\n")[0]?.slice(0, 200)}`
  )
  if (ceilings && work.length === 0) {
    const { bytesPerSecond, flopsPerSecond, matrixFlopsPerSecond } = ceilings
    lines.push(
      `memory ${giga(bytesPerSecond)} GB/s, f32 ${giga(flopsPerSecond)} GFLOP/s, matrix units ${giga(matrixFlopsPerSecond)} GFLOP/s`
    )
  }
  if (summary) {
    lines.push(
      `${summary.passed} variants verified over ${summary.cases} cases, worst error ${summary.worstError} of the tolerance`
    )
    lines.push(...summary.failed.map(({ name, variant }) => `FAILED ${name} (${variant})`))
    lines.push(
      `${summary.untouched.length} kernels not reached: ${summary.untouched.map(({ kernel }) => kernel).join(", ")}`
    )
  }
  for (const v of variants) {
    const failed = v.failed.length > 0 ? `, FAILED in ${v.failed.length}: ${v.failed[0]?.slice(0, 150)}` : ""
    lines.push(
      v.reason === undefined
        ? `${v.name}: verified in ${v.verified} cases${failed}`
        : `${v.name}: not verified, ${v.reason}`
    )
  }
  if (robustness) {
    const { cases, compared, different } = robustness
    lines.push(`robustness off gives the same bits in ${compared - different.length} of ${compared}, cases ${cases}`)
    lines.push(...different.map((d) => `DIFFERENT BITS ${d.case} (${d.variant})`))
  }
  if (calibration) {
    lines.push(...Object.entries(calibration.byClass).map(([kind, rung]) => `${kind}: ${rung}`))
    const late = calibration.dropped.filter(({ reason }) => reason.startsWith("not tried"))
    const wrong = calibration.dropped.filter((d) => !late.includes(d))
    lines.push(...wrong.map((d) => `dropped ${d.variant} ${d.where}: ${d.reason.slice(0, 150)}`))
    if (late.length > 0) lines.push(`${late.length} more not tried, for want of time`)
  }
  lines.push(...holds.map(({ ok, what }) => `${ok ? "holds" : "DOES NOT HOLD"}: ${what}`))
  for (const r of matmul)
    lines.push(
      `${r.name} ${r.storage} m ${r.m}: ${ms(r.seconds)}, ${r.gflops} GFLOP/s, ${r.gigabytesPerSecond} GB/s, ${r.kernels.join(" ")}`
    )
  for (const r of attention)
    lines.push(`${r.name} ${r.sequences} x ${r.length}: ${ms(r.seconds)}, ${r.gflops} GFLOP/s, ${r.kernels.join(" ")}`)
  for (const w of work) {
    const share = w.ceilingShare === null ? "" : `, ${(100 * w.ceilingShare).toFixed(1)} % of the ceilings`
    const device = w.deviceSeconds === null ? "" : `, kernels ${ms(w.deviceSeconds)}`
    const losses = w.training ? `, losses ${w.training.map(({ loss }) => loss.toFixed(4)).join(" ")}` : ""
    lines.push(
      `${w.title}: ${ms(w.seconds.median)}${device}, ${w.tokensPerSecond.toFixed(1)} tokens/s${share}, ${w.dispatchesPerStepAndLayer.toFixed(1)} dispatches a layer${losses}`
    )
  }
  if (progress && !work.some(({ title }) => title === progress.title))
    lines.push(`${progress.title}: stopped after run ${progress.run}, which took ${ms(progress.seconds)}`)
  const ok =
    (robustness?.different.length ?? 0) === 0 &&
    problems.length === 0 &&
    (summary?.failed.length ?? 0) === 0 &&
    holds.every((h) => h.ok)
  return { lines, ok }
}
