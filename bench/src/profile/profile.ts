/**
 * The profile of a piece of work. Two kinds of run, because each spoils the other's figures: ordinary ones for wall time
 * and the host's share, then one with a pass and two timestamps for each dispatch, for the table by kernel and the trace.
 */
import {
  byKernel,
  type Ceilings,
  countWork,
  formatRate,
  Gpu,
  type HostSpan,
  hostSeconds,
  type KernelProfile,
  leastSeconds,
  onlyLabel,
  type Recording,
  recordWork,
  renderKernels,
  wallSeconds
} from "@srcode/gpu"
import type { Decoder } from "@srcode/model"
import { Clock, Effect } from "effect"
import { type Sizes, type WorkloadName, workloads } from "./workloads.ts"

export interface WorkloadProfile {
  readonly name: WorkloadName
  /** Tokens through the model, forward passes, and layers. */
  readonly tokens: number
  readonly steps: number
  readonly layers: number
  readonly rounds: number
  /** Wall seconds of an ordinary run. */
  readonly seconds: { readonly median: number; readonly min: number; readonly max: number }
  readonly tokensPerSecond: number
  readonly submits: number
  readonly dispatches: number
  readonly dispatchesPerStep: number
  readonly dispatchesPerStepAndLayer: number
  /** Seconds of the host in one ordinary run, by phase; `read` includes waiting for the device. */
  readonly host: Readonly<Record<HostSpan["phase"], number>>
  /** Sum over dispatches of the run with timestamps; null where the device has none. */
  readonly deviceSeconds: number | null
  /** What the dispatches would take at the measured ceilings, as a part of the median wall time. */
  readonly ceilingShare: number | null
  /** Device bytes in use meanwhile, the weights included. */
  readonly deviceBytes: number
  readonly kernels: ReadonlyArray<KernelProfile>
  /** Matrix products by kernel and shape. */
  readonly products: ReadonlyArray<KernelProfile>
  /** Wall seconds of each submit with its wait, by label: all there is where the device has no timestamps. */
  readonly byLabel: Readonly<Record<string, { readonly submits: number; readonly seconds: number }>>
}

/** Wall seconds by label from recording to the end of the wait. */
const submitsByLabel = ({ spans }: Recording): WorkloadProfile["byLabel"] => {
  const sums: Record<string, { submits: number; seconds: number }> = {}
  for (const { end, label, phase, start } of spans) {
    if (phase === "read") continue
    const sum = (sums[label] ??= { submits: 0, seconds: 0 })
    sum.seconds += (end - start) / 1e9
    if (phase === "submit") sum.submits++
  }
  return sums
}

/** Profiles one piece of work; its buffers live only meanwhile. */
export const profileWorkload = Effect.fn("bench.profileWorkload")(function* (
  name: WorkloadName,
  decoder: Decoder,
  sizes: Sizes,
  options: {
    readonly rounds: number
    readonly ceilings: Ceilings
    /** Seconds of ordinary runs after which no further one is begun; one there is always. */
    readonly patience?: number
    /** Hears of each run that is done: which, from 0, and its wall seconds. */
    readonly onRun?: (run: number, seconds: number) => Effect.Effect<void>
  }
) {
  const gpu = yield* Gpu
  const { hints, label, run, steps, tokens } = yield* workloads[name](decoder, sizes)
  const meant = (recording: Recording): Recording => (label === undefined ? recording : onlyLabel(recording, label))
  const { onRun = () => Effect.void, patience = Number.POSITIVE_INFINITY } = options
  const began = yield* Clock.currentTimeMillis
  const since = Effect.map(Clock.currentTimeMillis, (now) => (now - began) / 1000)
  // What the runs gave in order: the steps of a training differ.
  const values: Array<unknown> = [yield* run]
  yield* gpu.idle
  yield* onRun(0, yield* since)
  const plain: Array<Recording> = []
  let spent = 0
  for (let round = 0; round < options.rounds && (round === 0 || spent < patience); round++) {
    const before = yield* since
    const { recording, value } = yield* recordWork(run, { dispatches: false })
    const seconds = (yield* since) - before
    spent += seconds
    values.push(value)
    plain.push(meant(recording))
    yield* onRun(round + 1, seconds)
  }
  plain.sort((a, b) => wallSeconds(a) - wallSeconds(b))
  const typical = plain[Math.floor(plain.length / 2)] ?? { submits: [], spans: [] }
  const timed = yield* recordWork(run, { dispatches: true, hints })
  values.push(timed.value)
  const recording = meant(timed.recording)
  const records = recording.submits.flatMap((submit) => submit.dispatches)
  const stamped = records.length > 0
  const { dispatches, submits } = countWork(typical)
  const median = wallSeconds(typical)
  const layers = decoder.config.numLayers
  const profile: WorkloadProfile = {
    name,
    tokens,
    steps,
    layers,
    rounds: plain.length,
    seconds: {
      median,
      min: wallSeconds(plain[0] ?? typical),
      max: wallSeconds(plain.at(-1) ?? typical)
    },
    tokensPerSecond: median > 0 ? tokens / median : 0,
    submits,
    dispatches,
    dispatchesPerStep: dispatches / steps,
    dispatchesPerStepAndLayer: dispatches / steps / layers,
    host: hostSeconds(typical.spans),
    deviceSeconds: stamped ? records.reduce((sum, { end, start }) => sum + (end - start), 0) / 1e9 : null,
    ceilingShare: stamped && median > 0 ? leastSeconds(records, options.ceilings) / median : null,
    deviceBytes: (yield* gpu.memory).live,
    kernels: byKernel(records, options.ceilings),
    products: byKernel(
      records.filter(({ shape }) => shape !== ""),
      options.ceilings,
      ({ kernel, shape }) => `${kernel} ${shape}`
    ),
    byLabel: submitsByLabel(recording)
  }
  return { profile, recording, values }
}, Effect.scoped)

const ms = (seconds: number): string => `${(1e3 * seconds).toFixed(seconds < 0.1 ? 2 : 0)} ms`

/** Lines for a terminal. */
export const renderProfile = (p: WorkloadProfile): ReadonlyArray<string> => {
  const { host } = p
  const encode = host.record + host.compile + host.encode + host.submit
  const perStep = p.steps > 1 ? ` (${p.dispatchesPerStep.toFixed(0)} a step` : " ("
  const share = p.ceilingShare === null ? "" : `, ${(100 * p.ceilingShare).toFixed(1)} % of the ceilings`
  return [
    `${p.name}: ${p.tokens} tokens in ${ms(p.seconds.median)}, ${p.tokensPerSecond.toFixed(1)} tokens/s${share}`,
    `  ${p.dispatches} dispatches${perStep}${p.steps > 1 ? ", " : ""}${p.dispatchesPerStepAndLayer.toFixed(1)} a layer) in ${p.submits} submits; ` +
      `host ${ms(encode)}: record ${ms(host.record)}, compile ${ms(host.compile)}, encode ${ms(host.encode)}, submit ${ms(host.submit)}`,
    ...(p.deviceSeconds === null
      ? [
          "  this device has no timestamps: wall time of each submit instead of each kernel",
          ...Object.entries(p.byLabel).map(
            ([name, { seconds, submits }]) => `  ${name}: ${submits} submits, ${ms(seconds)}`
          )
        ]
      : [
          `  device ${ms(p.deviceSeconds)} in kernels, timed one pass each`,
          ...renderKernels(p.kernels).map((line) => `  ${line}`)
        ])
  ]
}

export const renderCeilings = (c: Ceilings): string =>
  `ceilings: memory ${formatRate(c.bytesPerSecond, "B/s")}, f32 ${formatRate(c.flopsPerSecond, "FLOP/s")}, matrix units ${
    c.matrixFlopsPerSecond > 0 ? formatRate(c.matrixFlopsPerSecond, "FLOP/s") : "none"
  }`
