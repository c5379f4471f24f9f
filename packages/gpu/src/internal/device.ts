/** Opens the adapter and implements the Gpu verbs over a GPUDevice. See GpuDawn.ts. */
import { totalmem } from "node:os"
import { Effect, type Scope } from "effect"
import { create } from "webgpu"
import { type AdapterInfo, Gpu, type HostArray, type KernelTime } from "../Gpu.ts"
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
import { type Dispatch, Tape } from "../Tape.ts"
import type { ElementType, Tensor } from "../Tensor.ts"
import { bufferBytes, largestBuffer } from "./counter.ts"
import { type Compiled, makePipelines } from "./pipelines.ts"

// WebGPU's numeric flags (the globals are not defined in Node).
const usage = { mapRead: 1, copySrc: 4, copyDst: 8, storage: 128, queryResolve: 512 }
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

/** `kernels` is the folder of the kernel texts, another one only in tests. */
export const makeDevice = Effect.fn("Gpu.open")(function* (options: GpuOptions, kernels?: URL) {
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

  const encodeDispatch = (pass: GPUComputePassEncoder, entry: Dispatch, compiled: Compiled): void => {
    pass.setPipeline(compiled.pipeline)
    pass.setBindGroup(
      0,
      device.createBindGroup({
        layout: compiled.layout,
        entries: entry.tensors.map(([binding, tensor]) => ({
          binding,
          resource: { buffer: tensor.buffer, offset: tensor.offset * 4, size: Math.ceil(tensor.length / 4) * 16 }
        }))
      })
    )
    pass.setImmediates(0, entry.immediates)
    pass.dispatchWorkgroups(...entry.grid)
    dispatches++
  }

  const resolve = (tape: Tape) =>
    pipelines.resolve(tape.entries.flatMap((e) => (e._tag === "Dispatch" ? [e.dispatch] : [])))

  const encode = (
    tape: Tape,
    compiled: ReadonlyArray<Compiled>,
    perDispatch?: (encoder: GPUCommandEncoder, index: number) => GPUComputePassEncoder
  ): GPUCommandBuffer => {
    const encoder = device.createCommandEncoder()
    let pass: GPUComputePassEncoder | undefined
    let index = 0
    for (const entry of tape.entries) {
      if (entry._tag === "Dispatch") {
        const own = perDispatch?.(encoder, index)
        pass ??= own ?? encoder.beginComputePass()
        encodeDispatch(pass, entry.dispatch, compiled[index++]!)
        if (own !== undefined) {
          own.end()
          pass = undefined
        }
        continue
      }
      pass?.end()
      pass = undefined
      if (entry._tag === "Clear")
        encoder.clearBuffer(entry.tensor.buffer, entry.tensor.offset * 4, entry.tensor.length * 4)
      else
        encoder.copyBufferToBuffer(
          entry.from.buffer,
          entry.from.offset * 4,
          entry.to.buffer,
          entry.to.offset * 4,
          entry.length * 4
        )
    }
    pass?.end()
    return encoder.finish()
  }

  const record = (label: string, body: (tape: Tape) => void): Effect.Effect<Tape, GpuError> =>
    Effect.suspend(() => {
      if (failure !== undefined) return Effect.fail(failure)
      operation = label
      const tape = new Tape()
      body(tape)
      return tape.failure === undefined ? Effect.succeed(tape) : Effect.fail(tape.failure)
    })

  const submit = Effect.fnUntraced(function* (label: string, body: (tape: Tape) => void) {
    const tape = yield* record(label, body)
    const compiled = yield* resolve(tape)
    operation = label
    device.queue.submit([encode(tape, compiled)])
    yield* check
  })

  const stopped = (what: string) => (cause: unknown) =>
    failure ?? gpuError(new Validation({ operation: what, detail: String(cause) }))

  const idle = Effect.tryPromise({
    try: () => device.queue.onSubmittedWorkDone(),
    catch: stopped("waiting for the device")
  }).pipe(Effect.andThen(check))

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
    const bytes = yield* readBytes(tensor.buffer, tensor.offset * 4, tensor.length * 4)
    return (tensor.element === "f32" ? new Float32Array(bytes) : new Uint32Array(bytes)) as HostArray<E>
  })

  const profile = Effect.fnUntraced(function* (label: string, body: (tape: Tape) => void) {
    const tape = yield* record(label, body)
    const kernels = tape.entries.flatMap((e) => (e._tag === "Dispatch" ? [e.dispatch.kernel] : []))
    if (!features.includes("timestamp-query") || kernels.length === 0 || kernels.length > 2000) {
      yield* submit(label, body)
      yield* idle
      return []
    }
    const compiled = yield* resolve(tape)
    const querySet = device.createQuerySet({ type: "timestamp", count: kernels.length * 2 })
    const resolved = device.createBuffer({ size: kernels.length * 16, usage: usage.queryResolve | usage.copySrc })
    const commands = encode(tape, compiled, (encoder, i) =>
      encoder.beginComputePass({
        timestampWrites: { querySet, beginningOfPassWriteIndex: 2 * i, endOfPassWriteIndex: 2 * i + 1 }
      })
    )
    const resolver = device.createCommandEncoder()
    resolver.resolveQuerySet(querySet, 0, kernels.length * 2, resolved, 0)
    device.queue.submit([commands, resolver.finish()])
    const stamps = new BigUint64Array(yield* readBytes(resolved, 0, kernels.length * 16))
    querySet.destroy()
    resolved.destroy()
    return kernels.map(
      (kernel, i): KernelTime => ({ kernel, nanoseconds: Number((stamps[2 * i + 1] ?? 0n) - (stamps[2 * i] ?? 0n)) })
    )
  })

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
    compile,
    memory: Effect.sync(() => ({ live, peak, budget })),
    dispatches: Effect.sync(() => dispatches)
  })
})
