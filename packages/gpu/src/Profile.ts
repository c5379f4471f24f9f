/**
 * A recording of what a piece of work gave the device to do, and the table made of it: by kernel, with the rates that
 * follow from each dispatch's cost.
 *
 * Work is run as it is, through the same trainer, scorer or engine as always; the recorder only listens. Rates of a
 * kernel are sums of work over sums of time. Its share is of the nearer of the two ceilings: the longer of work /
 * ceiling and bytes / ceiling, over the time it took (a roofline, Williams et al. 2009).
 */
import { Effect } from "effect"
import { type Cost, type CostHints, costOf, shapeOf } from "./Cost.ts"
import { Gpu, type HostSpan } from "./Gpu.ts"

/** One dispatch: nanoseconds on the device's clock, and its work. */
export interface DispatchRecord extends Cost {
  readonly kernel: string
  /** Of a matrix product, see `shapeOf`. */
  readonly shape: string
  readonly start: number
  readonly end: number
}

export interface SubmitRecord {
  readonly label: string
  readonly dispatches: ReadonlyArray<DispatchRecord>
}

export interface Recording {
  /** Submits in order; empty where the device has no timestamps or they were not asked for. */
  readonly submits: ReadonlyArray<SubmitRecord>
  /** Host work in order, nanoseconds since the device was opened. */
  readonly spans: ReadonlyArray<HostSpan>
}

export interface RecordOptions {
  /** Time each dispatch; wall times are then not those of ordinary work. */
  readonly dispatches: boolean
  readonly hints?: CostHints
}

/** Runs `work` and returns what the device was given to do meanwhile. */
export const recordWork = Effect.fnUntraced(function* <A, E, R>(
  work: Effect.Effect<A, E, R>,
  { dispatches, hints = {} }: RecordOptions
) {
  const gpu = yield* Gpu
  const submits: Array<SubmitRecord> = []
  const spans: Array<HostSpan> = []
  const value = yield* gpu.observe(
    {
      dispatches,
      onSpan: (span) => void spans.push(span),
      onDispatches: (label, times) =>
        void submits.push({
          label,
          dispatches: times.map(({ dispatch, end, start }) => ({
            kernel: dispatch.kernel,
            shape: shapeOf(dispatch),
            start,
            end,
            ...costOf(dispatch, hints)
          }))
        })
    },
    work
  )
  const recording: Recording = { submits, spans }
  return { value, recording }
})

/**
 * The submits of one label and the host work from the first of them on, which leaves out what prepared them. What is read
 * after a submit carries the buffer's name, so it cannot be told apart by label.
 */
export const onlyLabel = ({ spans, submits }: Recording, label: string): Recording => {
  const first = spans.findIndex((span) => span.label === label)
  const later = first < 0 ? [] : spans.slice(first)
  return {
    submits: submits.filter((submit) => submit.label === label),
    spans: later.filter((span) => span.label === label || span.phase === "read")
  }
}

/** Dispatches and submits of a recording. */
export const countWork = ({ spans }: Recording): { readonly dispatches: number; readonly submits: number } => {
  const encoded = spans.filter((span) => span.phase === "encode")
  return { dispatches: encoded.reduce((sum, span) => sum + (span.dispatches ?? 0), 0), submits: encoded.length }
}

/** Seconds from the first host work to the last; 0 without any. */
export const wallSeconds = ({ spans }: Recording): number => {
  const [first, last] = [spans[0], spans.at(-1)]
  return first && last ? (last.end - first.start) / 1e9 : 0
}

/** The least seconds that this much work takes under the ceilings: each dispatch at the nearer one. */
export const leastSeconds = (records: ReadonlyArray<DispatchRecord>, ceilings: Ceilings): number =>
  records.reduce(
    (sum, { bytes, flops, kernel }) =>
      sum + Math.max(ratio(flops, ceilingOf(kernel, ceilings)), ratio(bytes, ceilings.bytesPerSecond)),
    0
  )

/** What the device can do at most, as measured; 0 where it was not. */
export interface Ceilings {
  readonly bytesPerSecond: number
  /** Arithmetic in f32. */
  readonly flopsPerSecond: number
  /** Arithmetic on the matrix units. */
  readonly matrixFlopsPerSecond: number
}

/** Which ceiling a kernel is held against. */
export const ceilingOf = (kernel: string, ceilings: Ceilings): number =>
  kernel.includes("matrix") ? ceilings.matrixFlopsPerSecond : ceilings.flopsPerSecond

export interface KernelProfile {
  readonly kernel: string
  readonly calls: number
  readonly seconds: number
  /** Median seconds of a call. */
  readonly median: number
  /** Of all time on the device. */
  readonly portion: number
  readonly flopsPerSecond: number
  readonly bytesPerSecond: number
  readonly bound: "compute" | "memory"
  /** Achieved part of the nearer ceiling, 0 where it was not measured. */
  readonly share: number
  /** Some of its work had no formula. */
  readonly estimated: boolean
}

const ratio = (a: number, b: number): number => (b > 0 ? a / b : 0)

const middle = (sorted: ReadonlyArray<number>): number => sorted[Math.floor(sorted.length / 2)] ?? 0

/** The table by kernel, or by what `nameOf` tells apart, the longest first. */
export const byKernel = (
  records: ReadonlyArray<DispatchRecord>,
  ceilings: Ceilings,
  nameOf: (record: DispatchRecord) => string = ({ kernel }) => kernel
): ReadonlyArray<KernelProfile> => {
  const groups = new Map<string, Array<DispatchRecord>>()
  for (const record of records) {
    const name = nameOf(record)
    const known = groups.get(name)
    if (known === undefined) groups.set(name, [record])
    else known.push(record)
  }
  const all = records.reduce((sum, { end, start }) => sum + (end - start), 0) / 1e9
  return [...groups]
    .map(([kernel, own]): KernelProfile => {
      const times = own.map(({ end, start }) => (end - start) / 1e9).sort((a, b) => a - b)
      const seconds = times.reduce((sum, t) => sum + t, 0)
      const flops = own.reduce((sum, r) => sum + r.flops, 0)
      const bytes = own.reduce((sum, r) => sum + r.bytes, 0)
      const [compute, memory] = [
        ratio(flops, ceilingOf(kernel, ceilings)),
        own.reduce((sum, r) => sum + ratio(r.bytes, ceilings.bytesPerSecond), 0)
      ]
      return {
        kernel,
        calls: own.length,
        seconds,
        median: middle(times),
        portion: ratio(seconds, all),
        flopsPerSecond: ratio(flops, seconds),
        bytesPerSecond: ratio(bytes, seconds),
        bound: compute > memory ? "compute" : "memory",
        share: ratio(Math.max(compute, memory), seconds),
        estimated: own.some((r) => r.estimated)
      }
    })
    .sort((a, b) => b.seconds - a.seconds)
}

/** Seconds of host work by phase. */
export const hostSeconds = (spans: ReadonlyArray<HostSpan>): Readonly<Record<HostSpan["phase"], number>> => {
  const sums = { record: 0, compile: 0, encode: 0, submit: 0, wait: 0, read: 0 }
  for (const { end, phase, start } of spans) sums[phase] += (end - start) / 1e9
  return sums
}

const prefixes = ["", "k", "M", "G", "T", "P"]
/** 1.23 G… for people, three digits. */
export const formatRate = (value: number, unit: string): string => {
  let scaled = value
  let at = 0
  while (scaled >= 999.5 && at < prefixes.length - 1) {
    scaled /= 1000
    at++
  }
  return `${Number(scaled.toPrecision(3))} ${prefixes[at]}${unit}`
}

const milliseconds = (seconds: number): string => {
  const ms = seconds * 1e3
  return ms >= 100 ? ms.toFixed(0) : ms >= 1 ? ms.toFixed(2) : ms.toFixed(4)
}

/** Lines of a table for a terminal. */
export const renderKernels = (rows: ReadonlyArray<KernelProfile>): ReadonlyArray<string> => {
  const cells = rows.map((r) => [
    r.kernel,
    String(r.calls),
    milliseconds(r.seconds),
    milliseconds(r.median),
    `${(100 * r.portion).toFixed(1)} %`,
    r.flopsPerSecond > 0 ? formatRate(r.flopsPerSecond, "FLOP/s") : "-",
    formatRate(r.bytesPerSecond, "B/s"),
    r.share > 0 ? `${(100 * r.share).toFixed(1)} % of ${r.bound}${r.estimated ? " (estimated)" : ""}` : "-"
  ])
  const head = ["kernel", "calls", "total ms", "median ms", "time", "arithmetic", "memory", "ceiling"]
  const widths = head.map((title, i) => Math.max(title.length, ...cells.map((row) => row[i]?.length ?? 0)))
  const line = (row: ReadonlyArray<string>): string =>
    row
      .map((cell, i) => (i === 0 || i === row.length - 1 ? cell.padEnd(widths[i] ?? 0) : cell.padStart(widths[i] ?? 0)))
      .join("  ")
      .trimEnd()
  return [line(head), ...cells.map(line)]
}
