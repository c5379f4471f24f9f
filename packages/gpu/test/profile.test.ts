/** Recording real work: every dispatch timed however many there are, the table, and the trace. */
import { assert, describe, it, layer } from "@effect/vitest"
import { fmaProbe } from "@srcode/kernels/probe/reference"
import { Effect } from "effect"
import {
  byKernel,
  clockOffset,
  countWork,
  type DispatchRecord,
  Gpu,
  GpuDawn,
  type HostSpan,
  hostSeconds,
  leastSeconds,
  makeOps,
  onlyLabel,
  probeElements,
  type Recording,
  recordWork,
  renderKernels,
  type SubmitRecord,
  traceOf,
  wallSeconds
} from "../src/index.ts"
import { assertClose, blank, DeviceLayer, f32, read } from "./support.ts"

const dispatch = (kernel: string, start: number, end: number, flops = 0, bytes = 0): DispatchRecord => ({
  kernel,
  shape: "",
  start,
  end,
  flops,
  bytes,
  estimated: false
})

layer(DeviceLayer, { excludeTestServices: true })("recording", (it) => {
  it.effect("more dispatches than one query set holds: all are timed, in order, and the work is done", () =>
    Effect.gen(function* () {
      const gpu = yield* Gpu
      const ops = makeOps(gpu.info)
      const count = 2300
      const [one, sum] = [yield* f32("one", [1, 1, 1, 1]), yield* f32("sum", [0, 0, 0, 0])]
      const { recording } = yield* recordWork(
        gpu.submit("many", (tape) => {
          for (let i = 0; i < count; i++) {
            ops.columnSum(tape, { x: one, out: sum, rows: 1, cols: 4, accumulate: true })
          }
        }),
        { dispatches: true }
      )
      assertClose("sum", yield* read(sum), [count, count, count, count])
      assert.deepStrictEqual(countWork(recording), { dispatches: count, submits: 1 })
      if (!gpu.info.features.includes("timestamp-query")) {
        assert.lengthOf(recording.submits, 0)
        return
      }
      const records = recording.submits.flatMap((submit) => submit.dispatches)
      assert.lengthOf(records, count)
      let last = Number.NEGATIVE_INFINITY
      for (const { end, start } of records) {
        assert.isAtLeast(end, start)
        assert.isAtLeast(start, last)
        last = start
      }
    })
  )

  it.effect("host spans follow each other and stop with the recording; results are those of ordinary work", () =>
    Effect.gen(function* () {
      const gpu = yield* Gpu
      const ops = makeOps(gpu.info)
      const [x, y] = [yield* f32("x", [1, -1, 2, 2]), yield* blank("y", 2)]
      const work = Effect.andThen(
        gpu.submit("step", (tape) => ops.swiglu(tape, { gu: x, y, rows: 1, dim: 2 })),
        gpu.read(y)
      )
      const plain = yield* recordWork(work, { dispatches: false })
      assert.deepStrictEqual(
        plain.recording.spans.map(({ label, phase }) => [phase, label]),
        [
          ["record", "step"],
          ["compile", "step"],
          ["encode", "step"],
          ["submit", "step"],
          ["read", "y"]
        ]
      )
      assert.lengthOf(plain.recording.submits, 0)
      for (const { end, start } of plain.recording.spans) assert.isAtLeast(end, start)
      assert.isAbove(wallSeconds(plain.recording), 0)
      const timed = yield* recordWork(work, { dispatches: true })
      assert.deepStrictEqual(timed.value, plain.value)
      assert.include(
        timed.recording.spans.map((span) => span.phase),
        "wait"
      )
      // Nobody listens any more, and a failed recording stops listening too.
      yield* Effect.exit(recordWork(Effect.andThen(work, Effect.fail("stop")), { dispatches: true }))
      const length = plain.recording.spans.length
      yield* work
      assert.lengthOf(plain.recording.spans, length)
    })
  )

  it.effect("probes compute what they are credited with", () =>
    Effect.gen(function* () {
      const gpu = yield* Gpu
      const ops = makeOps(gpu.info)
      const n = 5 * 1024 + 12
      const values = Float32Array.from({ length: n }, (_, i) => Math.sin(i))
      const [from, to] = [yield* f32("from", values), yield* blank("to", n)]
      const [rounds, a, b] = [7, 0.75, 0.5]
      const out = yield* blank("out", 2 * probeElements.fma)
      yield* gpu.submit("probes", (tape) => {
        ops.probeCopy(tape, { from, to, n })
        ops.probeFma(tape, { out, rounds, groups: 2, a, b })
      })
      assert.deepStrictEqual(yield* read(to), values)
      const expected = Array.from({ length: 2 * probeElements.fma }, (_, i) =>
        fmaProbe(i % probeElements.fma, rounds, a, b)
      )
      assertClose("fma", yield* read(out), expected, 1e-5)
    })
  )
})

layer(GpuDawn.layerNull, { excludeTestServices: true })("a device that computes nothing", (it) => {
  it.effect("its stamps are zeros and no rate becomes infinite", () =>
    Effect.gen(function* () {
      const gpu = yield* Gpu
      const ops = makeOps(gpu.info)
      const [x, y] = [yield* f32("x", [1, -1, 2, 2]), yield* blank("y", 2)]
      const { recording } = yield* recordWork(
        gpu.submit("step", (tape) => ops.swiglu(tape, { gu: x, y, rows: 1, dim: 2 })),
        { dispatches: true }
      )
      const ceilings = { bytesPerSecond: 0, flopsPerSecond: 0, matrixFlopsPerSecond: 0 }
      const rows = byKernel(
        recording.submits.flatMap((submit) => submit.dispatches),
        ceilings
      )
      for (const row of rows) {
        for (const value of [row.flopsPerSecond, row.bytesPerSecond, row.share, row.portion]) assert.isTrue(value === 0)
      }
      assert.notMatch(renderKernels(rows).join("\n"), /NaN|Infinity/)
    })
  )
})

describe("the table", () => {
  const ceilings = { bytesPerSecond: 100e9, flopsPerSecond: 1e12, matrixFlopsPerSecond: 10e12 }
  const records = [
    dispatch("a", 0, 1000, 500_000, 1000), // half of the arithmetic ceiling
    dispatch("b", 1000, 2000, 10, 25_000), // a quarter of the memory ceiling
    dispatch("a", 2000, 5000, 500_000, 1000),
    dispatch("matmul_matrix", 5000, 6000, 5e6, 8)
  ]

  it("sums by kernel, the longest first, with medians, rates and shares of the nearer ceiling", () => {
    const [a, b, c] = byKernel(records, ceilings)
    assert.deepStrictEqual([a?.kernel, b?.kernel, c?.kernel].sort(), ["a", "b", "matmul_matrix"])
    assert.isDefined(a)
    if (a === undefined) return
    assert.strictEqual(a.kernel, "a")
    assert.strictEqual(a.calls, 2)
    assert.closeTo(a.seconds, 4e-6, 1e-15)
    assert.closeTo(a.median, 3e-6, 1e-15)
    assert.closeTo(a.portion, 4 / 6, 1e-9)
    assert.closeTo(a.flopsPerSecond, 1e6 / 4e-6, 1)
    assert.strictEqual(a.bound, "compute")
    assert.closeTo(a.share, 0.25, 1e-9)
    const memory = [b, c].find((row) => row?.kernel === "b")
    assert.strictEqual(memory?.bound, "memory")
    assert.closeTo(memory?.share ?? 0, 0.25, 1e-9)
    const units = [b, c].find((row) => row?.kernel === "matmul_matrix")
    assert.closeTo(units?.share ?? 0, 0.5, 1e-9)
    assert.closeTo(leastSeconds(records, ceilings), 0.5e-6 + 0.25e-6 + 0.5e-6 + 0.5e-6, 1e-12)
  })

  it("is rendered in columns that line up", () => {
    const lines = renderKernels(byKernel(records, ceilings))
    assert.lengthOf(lines, 4)
    assert.match(lines[0] ?? "", /^kernel +calls +total ms +median ms +time +arithmetic +memory +ceiling$/)
    assert.match(lines[1] ?? "", /^a +2 +0\.0040 +0\.0030 +66\.7 % +250 GFLOP\/s +500 MB\/s +25\.0 % of compute$/)
    const at = (lines[0] ?? "").indexOf("ceiling")
    for (const line of lines.slice(1)) assert.match(line.slice(at), /^[\d.]+ % of (compute|memory)$/)
  })
})

describe("the trace", () => {
  const span = (phase: HostSpan["phase"], label: string, start: number, end: number): HostSpan => ({
    phase,
    label,
    start,
    end
  })
  const spans = [
    span("record", "x", 1000, 1100),
    span("submit", "x", 1100, 1200),
    span("wait", "x", 1200, 9000),
    span("submit", "empty", 9000, 9100),
    span("wait", "empty", 9100, 9200),
    span("submit", "x", 9200, 9300),
    span("wait", "x", 9300, 12_300),
    span("read", "out", 12_300, 13_000)
  ]
  const submits: ReadonlyArray<SubmitRecord> = [
    { label: "x", dispatches: [dispatch("a", 0, 2000), dispatch("b", 2000, 5000)] },
    { label: "x", dispatches: [dispatch("a", 7000, 10_000)] }
  ]
  const recording: Recording = { spans, submits }

  it("places the device's clock by the submit whose end was seen the soonest", () => {
    assert.strictEqual(clockOffset(submits, spans), Math.min(9000 - 5000, 12_300 - 10_000))
    assert.isUndefined(clockOffset([], spans))
    assert.isUndefined(clockOffset(submits, []))
  })

  it("holds an event for each dispatch and span, in microseconds from the beginning, after JSON too", () => {
    const { displayTimeUnit, traceEvents } = JSON.parse(JSON.stringify(traceOf(recording)))
    assert.strictEqual(displayTimeUnit, "ms")
    const events: ReadonlyArray<Record<string, unknown>> = traceEvents
    const complete = events.filter((event) => event.ph === "X")
    assert.lengthOf(complete, spans.length + 3)
    for (const event of complete) {
      assert.isAtLeast(Number(event.ts), 0)
      assert.isAtLeast(Number(event.dur), 0)
      assert.isString(event.name)
    }
    const device = complete.filter((event) => event.pid === 1)
    // Device time 0 is host time 2300, and the recording begins at 1000.
    assert.deepStrictEqual(
      device.map(({ dur, name, ts }) => [name, ts, dur]),
      [
        ["a", 1.3, 2],
        ["b", 3.3, 3],
        ["a", 8.3, 3]
      ]
    )
    const tracks = events.filter((event) => event.name === "thread_name").map((event) => `${event.pid}/${event.tid}`)
    for (const event of complete) assert.include(tracks, `${event.pid}/${event.tid}`)
  })

  it("sums and narrows host work", () => {
    assert.closeTo(hostSeconds(spans).wait, (7800 + 100 + 3000) / 1e9, 1e-15)
    const only = onlyLabel({ spans: [span("record", "before", 0, 5), ...spans], submits }, "x")
    assert.deepStrictEqual(
      only.spans.map(({ label }) => label),
      ["x", "x", "x", "x", "x", "out"]
    )
    assert.closeTo(wallSeconds(only), 12_000 / 1e9, 1e-15)
  })
})
