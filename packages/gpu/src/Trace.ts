/**
 * A recording as a trace that chrome://tracing and ui.perfetto.dev open: one track for the device, one for each phase of
 * the host's work. Times are microseconds from the beginning of the recording.
 *
 * The two clocks are not the same and nothing relates them directly. Each submit was waited for, so its last dispatch
 * ended before the wait did; the smallest distance over all submits places the device's clock.
 */
import type { HostSpan } from "./Gpu.ts"
import type { Recording, SubmitRecord } from "./Profile.ts"

/** A complete event ("X") or a track's name ("M") of the trace event format. */
export interface TraceEvent {
  readonly name: string
  readonly ph: "X" | "M"
  readonly pid: number
  readonly tid: number
  readonly ts?: number
  readonly dur?: number
  readonly cat?: string
  readonly args?: Readonly<Record<string, string | number>>
}

export interface ChromeTrace {
  readonly displayTimeUnit: "ms"
  readonly traceEvents: ReadonlyArray<TraceEvent>
}

/** Nanoseconds to add to a device time to get a host time; undefined without both. */
export const clockOffset = (
  submits: ReadonlyArray<SubmitRecord>,
  spans: ReadonlyArray<HostSpan>
): number | undefined => {
  // One wait belongs to each submit, in order; submits without dispatches have no record.
  const waits = spans.filter((span) => span.phase === "wait")
  let offset: number | undefined
  let next = 0
  for (const submit of submits) {
    while (next < waits.length && waits[next]?.label !== submit.label) next++
    const wait = waits[next++]
    const last = submit.dispatches.reduce((end, dispatch) => Math.max(end, dispatch.end), Number.NEGATIVE_INFINITY)
    if (wait !== undefined && Number.isFinite(last))
      offset = Math.min(offset ?? Number.POSITIVE_INFINITY, wait.end - last)
  }
  return offset
}

const [deviceProcess, hostProcess] = [1, 2]
const phases: ReadonlyArray<HostSpan["phase"]> = ["record", "compile", "encode", "submit", "wait", "read"]

export const traceOf = (recording: Recording): ChromeTrace => {
  const { spans, submits } = recording
  const shift = clockOffset(submits, spans) ?? 0
  const starts = [...spans.map((s) => s.start), ...submits.flatMap((s) => s.dispatches.map((d) => d.start + shift))]
  const zero = starts.reduce((least, at) => Math.min(least, at), Number.POSITIVE_INFINITY)
  const at = (ns: number): number => (ns - zero) / 1e3
  const name = (pid: number, tid: number, kind: "process_name" | "thread_name", text: string): TraceEvent => ({
    name: kind,
    ph: "M",
    pid,
    tid,
    args: { name: text }
  })
  return {
    displayTimeUnit: "ms",
    traceEvents: [
      name(deviceProcess, 0, "process_name", "device"),
      name(deviceProcess, 0, "thread_name", "dispatches"),
      name(hostProcess, 0, "process_name", "host"),
      ...phases.map((phase, tid) => name(hostProcess, tid, "thread_name", phase)),
      ...submits.flatMap(({ dispatches, label }) =>
        dispatches.map(
          ({ bytes, end, flops, kernel, start }): TraceEvent => ({
            name: kernel,
            cat: label,
            ph: "X",
            pid: deviceProcess,
            tid: 0,
            ts: at(start + shift),
            dur: (end - start) / 1e3,
            args: { flops, bytes }
          })
        )
      ),
      ...spans.map(
        ({ end, label, phase, start }): TraceEvent => ({
          name: label,
          cat: phase,
          ph: "X",
          pid: hostProcess,
          tid: phases.indexOf(phase),
          ts: at(start),
          dur: (end - start) / 1e3
        })
      )
    ]
  }
}
