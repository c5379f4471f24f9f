/** A Gpu that allocates nothing and computes nothing: it counts bytes, under the limits of the device it stands for. */
import { Effect } from "effect"
import { type AdapterInfo, Gpu, type HostArray } from "../Gpu.ts"
import { type GpuError, gpuError, InvalidDispatch, OutOfMemory } from "../GpuError.ts"
import { Tape } from "../Tape.ts"
import type { ElementType, Tensor } from "../Tensor.ts"
import { makeScratch } from "./scratch.ts"

export const bufferBytes = (length: number): number => Math.ceil(Math.max(1, length) / 4) * 16

/** The most bytes one buffer that is bound as a whole may have. */
export const largestBuffer = (info: AdapterInfo): number =>
  Math.min(
    info.limits.maxStorageBufferBindingSize ?? Number.POSITIVE_INFINITY,
    info.limits.maxBufferSize ?? Number.POSITIVE_INFINITY
  )

export const makeCounter = (info: AdapterInfo) => {
  let live = 0
  let peak = 0
  let temporary = 0
  const scratch = makeScratch({
    largest: largestBuffer(info),
    // Only the size is ever asked of it.
    create: (label, size) => ({ size, label, destroy: () => undefined }) as unknown as GPUBuffer,
    account: (bytes) => {
      temporary += bytes
      live += bytes
      peak = Math.max(peak, live)
      return undefined
    }
  })
  const count = (record: (tape: Tape) => void): Effect.Effect<void, GpuError> =>
    Effect.suspend(() => {
      const tape = new Tape(scratch.source)
      record(tape)
      if (tape.failure !== undefined) scratch.drop()
      const wrong = tape.failure ?? scratch.settle()
      return wrong === undefined ? Effect.void : Effect.fail(wrong)
    })
  const gpu = Gpu.of({
    info,
    alloc: <E extends ElementType>(label: string, element: E, length: number) =>
      Effect.acquireRelease(
        Effect.suspend(() => {
          const bytes = bufferBytes(length)
          if (!Number.isInteger(length) || length < 0)
            return Effect.fail(gpuError(new InvalidDispatch({ kernel: "alloc", detail: `${label}: length ${length}` })))
          const limit = largestBuffer(info)
          if (bytes > limit) {
            const limitName = "the device's largest storage binding"
            return Effect.fail(gpuError(new OutOfMemory({ label, bytes, live, limit, limitName })))
          }
          live += bytes
          peak = Math.max(peak, live)
          // Only the size is ever asked of it.
          const buffer = { size: bytes, label } as GPUBuffer
          return Effect.succeed<Tensor<E>>({ label, element, offset: 0, length, buffer })
        }),
        (tensor) =>
          Effect.sync(() => {
            live -= tensor.buffer.size
          })
      ),
    write: () => Effect.void,
    submit: (_label, record) => count(record),
    run: ({ record }) => count(record),
    read: <E extends ElementType>(tensor: Tensor<E>) =>
      Effect.sync(
        () =>
          (tensor.element === "f32" ? new Float32Array(tensor.length) : new Uint32Array(tensor.length)) as HostArray<E>
      ),
    idle: Effect.void,
    profile: () => Effect.succeed([]),
    observe: (_observer, work) => work,
    compile: () => Effect.void,
    memory: Effect.sync(() => ({ live, peak, budget: Number.POSITIVE_INFINITY })),
    dispatches: Effect.succeed(0)
  })
  return { gpu, live: () => live, peak: () => peak, temporary: () => temporary }
}
