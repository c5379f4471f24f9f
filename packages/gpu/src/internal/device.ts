/** Opens the device and implements the Gpu verbs over a GPUDevice. See GpuDawn.ts. */
import { totalmem } from "node:os"
import { Clock, Effect, type Scope } from "effect"
import { Gpu, type HostArray, type HostSpan, type KernelTime, type Observer, type Program } from "../Gpu.ts"
import type { GpuOptions } from "../GpuDawn.ts"
import {
  DeviceLost,
  type GpuError,
  gpuError,
  InvalidDispatch,
  NoAdapter,
  OutOfMemory,
  Validation
} from "../GpuError.ts"
import type { KernelName } from "../Kernel.ts"
import { type Dispatch, Tape } from "../Tape.ts"
import type { ElementType, Tensor } from "../Tensor.ts"
import { acquire } from "./adapter.ts"
import { bufferBytes, largestBuffer } from "./counter.ts"
import { encodeTape, type Work } from "./encode.ts"
import { type KernelTexts, makePipelines } from "./pipelines.ts"
import { makeScratch } from "./scratch.ts"
import { makeTimestamps } from "./timestamps.ts"

// WebGPU's numeric flags (the globals are not defined in Node).
const usage = { mapRead: 1, copySrc: 4, copyDst: 8, storage: 128 }
const mapModeRead = 1

/** Dispatches of one command buffer: few enough for the device to start early, enough for a submit's cost not to matter. */
const dispatchesAtOnce = 64

const dispatchesOf = (tape: Tape): ReadonlyArray<Dispatch> =>
  tape.entries.flatMap((e) => (e._tag === "Dispatch" ? [e.dispatch] : []))

const wantedFeatures: ReadonlyArray<string> = [
  "shader-f16",
  "subgroups",
  "subgroup-size-control",
  "chromium-experimental-subgroup-matrix",
  "timestamp-query"
]

const wantedLimits = [
  "maxBufferSize",
  "maxStorageBufferBindingSize",
  "maxStorageBuffersPerShaderStage",
  "maxComputeWorkgroupStorageSize",
  "maxComputeInvocationsPerWorkgroup",
  "maxComputeWorkgroupSizeX",
  "maxImmediateSize"
] as const

/** `kernels` are other texts, only in tests. */
export const makeDevice = Effect.fn("Gpu.open")(function* (options: GpuOptions, kernels?: KernelTexts) {
  const { instance, adapter, info } = yield* acquire(options)
  const features = wantedFeatures.filter((f) => adapter.features.has(f))
  const requiredLimits: Record<string, number> = {}
  for (const key of wantedLimits) {
    const value = info.limits[key]
    if (value !== undefined) requiredLimits[key] = value
  }
  const device = yield* Effect.acquireRelease(
    Effect.tryPromise({
      try: () => adapter.requestDevice({ requiredFeatures: features as Array<GPUFeatureName>, requiredLimits }),
      catch: (cause) =>
        gpuError(new NoAdapter({ requested: options.device, hint: `the device did not open: ${String(cause)}` }))
    }),
    (d) => Effect.sync(() => d.destroy())
  )
  // Dawn's instance must outlive the device; nothing else refers to it.
  yield* Effect.addFinalizer(() => Effect.sync(() => void instance))

  let failure: GpuError | undefined
  let operation = "start-up"
  let closing = false
  yield* Effect.addFinalizer(() =>
    Effect.sync(() => {
      closing = true
    })
  )
  device.onuncapturederror = (event: GPUUncapturedErrorEvent) => {
    failure ??= gpuError(
      event.error.constructor.name === "GPUOutOfMemoryError"
        ? new OutOfMemory({ label: operation, bytes: 0, live, limit: budget, limitName: "the device's free memory" })
        : new Validation({ operation, detail: event.error.message })
    )
  }
  device.lost.then(
    (lost) => {
      if (!closing) failure ??= gpuError(new DeviceLost({ detail: lost.message }))
    },
    () => undefined
  )
  const check: Effect.Effect<void, GpuError> = Effect.suspend(() =>
    failure === undefined ? Effect.void : Effect.fail(failure)
  )

  const budget = options.memory ?? (info.software ? Math.floor(totalmem() * 0.75) : Number.POSITIVE_INFINITY)
  let live = 0
  let peak = 0
  let dispatches = 0
  const pipelines = makePipelines(device, new Set(features), kernels)

  const scratch = makeScratch({
    largest: largestBuffer(info),
    create: (label, size) => device.createBuffer({ label, size, usage: usage.storage | usage.copySrc | usage.copyDst }),
    account: (bytes) => {
      if (live + bytes > budget) return { limit: budget, name: "the memory budget", live }
      live += bytes
      peak = Math.max(peak, live)
      return undefined
    }
  })
  const clock = yield* Clock.Clock
  const opened = clock.currentTimeNanosUnsafe()
  let observer: Observer | undefined
  /** The first timestamp: all others are counted from it, as 64 bits do not fit a number. */
  let epoch: bigint | undefined
  const now = (): number => (observer === undefined ? 0 : Number(clock.currentTimeNanosUnsafe() - opened))
  /** Tells the observer what was done since `start`; returns the time. */
  const span = (phase: HostSpan["phase"], label: string, start: number, encoded?: number): number => {
    const end = now()
    observer?.onSpan({ phase, label, start, end, ...(encoded !== undefined && { dispatches: encoded }) })
    return end
  }

  const alloc = <E extends ElementType>(
    label: string,
    element: E,
    length: number
  ): Effect.Effect<Tensor<E>, GpuError, Scope.Scope> =>
    Effect.acquireRelease(
      Effect.suspend(() => {
        if (failure !== undefined) return Effect.fail(failure)
        const bytes = bufferBytes(length)
        const refuse = (limit: number, limitName: string) =>
          Effect.fail(gpuError(new OutOfMemory({ label, bytes, live, limit, limitName })))
        if (!Number.isInteger(length) || length < 0)
          return Effect.fail(gpuError(new InvalidDispatch({ kernel: "alloc", detail: `${label}: length ${length}` })))
        const binding = largestBuffer(info)
        if (bytes > binding) return refuse(binding, "the device's largest storage binding")
        if (live + bytes > budget) return refuse(budget, "the memory budget")
        operation = `alloc ${label}`
        live += bytes
        peak = Math.max(peak, live)
        const buffer = device.createBuffer({ label, size: bytes, usage: usage.storage | usage.copySrc | usage.copyDst })
        return Effect.succeed<Tensor<E>>({ label, element, offset: 0, length, buffer })
      }),
      (tensor) =>
        Effect.sync(() => {
          live -= tensor.buffer.size
          tensor.buffer.destroy()
        })
    )

  const write = <E extends ElementType>(tensor: Tensor<E>, data: HostArray<E>): Effect.Effect<void, GpuError> =>
    Effect.suspend(() => {
      if (failure !== undefined) return Effect.fail(failure)
      if (data.length > tensor.length) {
        return Effect.fail(
          gpuError(
            new InvalidDispatch({
              kernel: "write",
              detail: `${data.length} elements into ${tensor.label} [${tensor.length}]`
            })
          )
        )
      }
      operation = `write ${tensor.label}`
      device.queue.writeBuffer(tensor.buffer, tensor.offset * 4, data)
      return Effect.void
    })

  const record = (label: string, body: (tape: Tape) => void): Effect.Effect<Tape, GpuError> =>
    Effect.suspend(() => {
      if (failure !== undefined) return Effect.fail(failure)
      operation = label
      const tape = new Tape(scratch.source)
      body(tape)
      if (tape.failure !== undefined) scratch.drop()
      const wrong = tape.failure ?? scratch.settle()
      return wrong === undefined ? Effect.succeed(tape) : Effect.fail(wrong)
    })

  const stopped = (what: string) => (cause: unknown) =>
    failure ?? gpuError(new Validation({ operation: what, detail: String(cause) }))

  const idle = Effect.tryPromise({
    try: () => device.queue.onSubmittedWorkDone(),
    catch: stopped("waiting for the device")
  }).pipe(Effect.andThen(check))

  /** Records and looks pipelines up. */
  const prepare = Effect.fnUntraced(function* (label: string, body: (tape: Tape) => void, again: boolean) {
    let at = now()
    const tape = yield* record(label, body)
    at = span("record", label, at)
    const compiled = yield* pipelines.resolve(dispatchesOf(tape))
    span("compile", label, at)
    const work: Work = { tape, compiled, groups: again ? [] : undefined, bufferOf: scratch.bufferOf }
    return work
  })

  const launch = (label: string, work: Work): Effect.Effect<void, GpuError> =>
    Effect.suspend(() => {
      operation = label
      let at = now()
      for (const piece of encodeTape(device, work, dispatchesAtOnce)) {
        at = span("encode", label, at, piece.dispatches)
        device.queue.submit([piece.commands])
        at = span("submit", label, at)
      }
      dispatches += work.compiled.length
      return check
    })

  const submit = Effect.fnUntraced(function* (label: string, body: (tape: Tape) => void) {
    if (observer?.dispatches === true) yield* timed(label, body)
    else yield* launch(label, yield* prepare(label, body, false))
  })

  const kept = new WeakMap<Program, { readonly work: Work; readonly generation: number }>()

  const run = Effect.fnUntraced(function* (program: Program) {
    const { label, record: body } = program
    if (observer?.dispatches === true) {
      yield* timed(label, body)
      return
    }
    yield* check
    const known = kept.get(program)
    // Temporary buffers that were replaced since then are gone.
    if (known !== undefined && known.generation === scratch.generation()) return yield* launch(label, known.work)
    const work = yield* prepare(label, body, true)
    kept.set(program, { work, generation: scratch.generation() })
    yield* launch(label, work)
  })

  const readBytes = (buffer: GPUBuffer, offset: number, bytes: number): Effect.Effect<ArrayBuffer, GpuError> =>
    Effect.gen(function* () {
      yield* check
      const size = Math.ceil(bytes / 4) * 4
      const staging = device.createBuffer({ size, usage: usage.mapRead | usage.copyDst })
      const encoder = device.createCommandEncoder()
      encoder.copyBufferToBuffer(buffer, offset, staging, 0, size)
      device.queue.submit([encoder.finish()])
      yield* Effect.tryPromise({
        try: () => staging.mapAsync(mapModeRead),
        catch: stopped(`read ${buffer.label}`)
      })
      const copy = staging.getMappedRange().slice(0, bytes)
      staging.destroy()
      yield* check
      return copy
    })

  const read = Effect.fnUntraced(function* <E extends ElementType>(tensor: Tensor<E>) {
    const at = now()
    const bytes = yield* readBytes(tensor.buffer, tensor.offset * 4, tensor.length * 4)
    span("read", tensor.label, at)
    return (tensor.element === "f32" ? new Float32Array(bytes) : new Uint32Array(bytes)) as HostArray<E>
  })

  /** Submits with a pass for each dispatch and waits; no times where the device has no timestamps. */
  const timed = Effect.fnUntraced(function* (label: string, body: (tape: Tape) => void) {
    const work = yield* prepare(label, body, false)
    const dispatched = dispatchesOf(work.tape)
    const stamps = features.includes("timestamp-query") ? makeTimestamps(device, dispatched.length) : undefined
    let at = now()
    const pieces = [...encodeTape(device, work, Number.POSITIVE_INFINITY, stamps?.pass)]
    dispatches += dispatched.length
    at = span("encode", label, at, dispatched.length)
    device.queue.submit([
      ...pieces.map(({ commands }) => commands),
      ...(stamps === undefined ? [] : [stamps.resolve()])
    ])
    at = span("submit", label, at)
    yield* check
    yield* idle
    span("wait", label, at)
    if (stamps === undefined) return []
    const times = new BigUint64Array(yield* readBytes(stamps.resolved, 0, stamps.bytes))
    stamps.destroy()
    epoch ??= times[0] ?? 0n
    const since = epoch
    const place = (i: number): number => Number((times[i] ?? since) - since)
    const all = dispatched.map((dispatch, i) => ({ dispatch, start: place(2 * i), end: place(2 * i + 1) }))
    observer?.onDispatches(label, all)
    return all
  })

  const profile = (label: string, body: (tape: Tape) => void) =>
    Effect.map(timed(label, body), (all) =>
      all.map(({ dispatch, end, start }): KernelTime => ({ kernel: dispatch.kernel, nanoseconds: end - start }))
    )

  const observe = <A, E, R>(wanted: Observer, work: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
    Effect.acquireUseRelease(
      Effect.sync(() => {
        const before = observer
        observer = wanted
        return before
      }),
      () => work,
      (before) =>
        Effect.sync(() => {
          observer = before
        })
    )

  const compile = Effect.fnUntraced(function* (kernels: ReadonlyArray<KernelName>) {
    yield* pipelines.resolve(kernels.map((kernel) => ({ kernel, constants: {} })))
    yield* check
  })

  return Gpu.of({
    info: { ...info, features },
    alloc,
    write,
    submit,
    run,
    read,
    idle,
    profile,
    observe,
    compile,
    memory: Effect.sync(() => ({ live, peak, budget })),
    dispatches: Effect.sync(() => dispatches)
  })
})
