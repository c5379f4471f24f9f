/** Opens the adapter and implements the Gpu verbs over a GPUDevice. See GpuDawn.ts. */
import { totalmem } from "node:os"
import { Clock, Effect, type Scope } from "effect"
import { create } from "webgpu"
import { type AdapterInfo, Gpu, type HostArray, type HostSpan, type KernelTime, type Observer } from "../Gpu.ts"
import type { DeviceChoice, GpuOptions } from "../GpuDawn.ts"
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
import { Tape } from "../Tape.ts"
import type { ElementType, Tensor } from "../Tensor.ts"
import { bufferBytes, largestBuffer } from "./counter.ts"
import { encodeTape } from "./encode.ts"
import { matrixConfigs } from "./matrix-configs.ts"
import { type Compiled, type KernelTexts, makePipelines } from "./pipelines.ts"
import { makeScratch } from "./scratch.ts"
import { makeTimestamps, type Timestamps } from "./timestamps.ts"

// WebGPU's numeric flags (the globals are not defined in Node).
const usage = { mapRead: 1, copySrc: 4, copyDst: 8, storage: 128 }
const mapModeRead = 1

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

const hints: Record<DeviceChoice, string> = {
  auto: "no Vulkan driver was found; run `npm run setup`, which installs a software one where there is no GPU",
  hardware: "only software drivers were found; install the GPU's Vulkan driver or use --device auto",
  lavapipe: "install Mesa's lavapipe 23.1 or newer (package mesa-vulkan-drivers) or run `npm run setup`",
  swiftshader: "run `npm run setup -- --driver swiftshader`",
  null: "Dawn's null backend did not start; reinstall node_modules"
}

const matches = (choice: DeviceChoice, info: AdapterInfo): boolean => {
  const text = `${info.name} ${info.driver} ${info.architecture}`.toLowerCase()
  switch (choice) {
    case "auto":
    case "null":
      return true
    case "hardware":
      return !info.software
    case "lavapipe":
      return text.includes("llvmpipe") || text.includes("lavapipe")
    case "swiftshader":
      return text.includes("swiftshader")
  }
}

const describe = (adapter: GPUAdapter, backendNull: boolean): AdapterInfo => {
  const info = adapter.info
  const limits: Record<string, number> = {}
  for (const key in adapter.limits) {
    const value: unknown = Reflect.get(adapter.limits, key)
    if (typeof value === "number") limits[key] = value
  }
  const features = [...adapter.features].map(String).sort()
  return {
    name: info.device || info.description || info.vendor || "unknown",
    vendor: info.vendor,
    architecture: info.architecture,
    driver: info.description,
    backend: backendNull
      ? "null"
      : process.platform === "darwin"
        ? "metal"
        : process.platform === "win32"
          ? "d3d12"
          : "vulkan",
    software: backendNull || (info.isFallbackAdapter ?? false),
    features,
    limits,
    subgroupMatrixConfigs: matrixConfigs(info),
    subgroupSize: features.includes("subgroups") ? [info.subgroupMinSize ?? 0, info.subgroupMaxSize ?? 0] : [0, 0]
  }
}

const acquire = (choice: DeviceChoice) =>
  Effect.gen(function* () {
    const flags = [
      "enable-dawn-features=allow_unsafe_apis,vulkan_enable_f16_on_nvidia",
      "disable-dawn-features=timestamp_quantization"
    ]
    if (choice === "null") flags.push("backend=null")
    const refuse = (hint: string) => gpuError(new NoAdapter({ requested: choice, hint }))
    const instance = yield* Effect.try({ try: () => create(flags), catch: () => refuse(hints[choice]) })
    // A hardware adapter first; software drivers only answer when fallback is allowed or nothing else is there.
    for (const forceFallbackAdapter of choice === "lavapipe" || choice === "swiftshader"
      ? [true, false]
      : [false, true]) {
      const adapter = yield* Effect.tryPromise({
        try: () => instance.requestAdapter({ powerPreference: "high-performance", forceFallbackAdapter }),
        catch: () => refuse(hints[choice])
      })
      if (adapter === null) continue
      const info = describe(adapter, choice === "null")
      if (matches(choice, info)) return { instance, adapter, info }
    }
    return yield* refuse(hints[choice])
  })

/** `kernels` are other texts, only in tests. */
export const makeDevice = Effect.fn("Gpu.open")(function* (options: GpuOptions, kernels?: KernelTexts) {
  const { instance, adapter, info } = yield* acquire(options.device)
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
  const span = (phase: HostSpan["phase"], label: string, start: number, encoded?: ReadonlyArray<Compiled>): number => {
    const end = now()
    observer?.onSpan({ phase, label, start, end, ...(encoded && { dispatches: encoded.length }) })
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

  const resolve = (tape: Tape) =>
    pipelines.resolve(tape.entries.flatMap((e) => (e._tag === "Dispatch" ? [e.dispatch] : [])))

  const encode = (tape: Tape, compiled: ReadonlyArray<Compiled>, pass?: Timestamps["pass"]): GPUCommandBuffer => {
    dispatches += compiled.length
    return encodeTape(device, tape, compiled, pass)
  }

  const record = (label: string, body: (tape: Tape) => void): Effect.Effect<Tape, GpuError> =>
    Effect.suspend(() => {
      if (failure !== undefined) return Effect.fail(failure)
      operation = label
      const tape = new Tape(scratch.source)
      body(tape)
      return tape.failure === undefined ? Effect.succeed(tape) : Effect.fail(tape.failure)
    })

  const stopped = (what: string) => (cause: unknown) =>
    failure ?? gpuError(new Validation({ operation: what, detail: String(cause) }))

  const idle = Effect.tryPromise({
    try: () => device.queue.onSubmittedWorkDone(),
    catch: stopped("waiting for the device")
  }).pipe(Effect.andThen(check))

  const submit = Effect.fnUntraced(function* (label: string, body: (tape: Tape) => void) {
    if (observer?.dispatches === true) {
      yield* timed(label, body)
      return
    }
    let at = now()
    const tape = yield* record(label, body)
    at = span("record", label, at)
    const compiled = yield* resolve(tape)
    operation = label
    at = span("compile", label, at)
    const commands = encode(tape, compiled)
    at = span("encode", label, at, compiled)
    device.queue.submit([commands])
    scratch.collect()
    span("submit", label, at)
    yield* check
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
    let at = now()
    const tape = yield* record(label, body)
    at = span("record", label, at)
    const compiled = yield* resolve(tape)
    operation = label
    at = span("compile", label, at)
    const dispatched = tape.entries.flatMap((e) => (e._tag === "Dispatch" ? [e.dispatch] : []))
    const stamps = features.includes("timestamp-query") ? makeTimestamps(device, dispatched.length) : undefined
    const commands = [encode(tape, compiled, stamps?.pass)]
    at = span("encode", label, at, compiled)
    device.queue.submit(stamps === undefined ? commands : [...commands, stamps.resolve()])
    scratch.collect()
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
    read,
    idle,
    profile,
    observe,
    compile,
    memory: Effect.sync(() => ({ live, peak, budget })),
    dispatches: Effect.sync(() => dispatches)
  })
})
