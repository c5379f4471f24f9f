/**
 * The compute device as a service. Four effectful verbs: `alloc`, `write`, `submit`, `read`; all else is plain data.
 *
 * A step records its dispatches in synchronous code and costs one Effect per submit. Buffers belong to the Scope they
 * were allocated in, and every byte is counted against a budget. Device loss and uncaptured validation errors fail the
 * next verb with a typed error: results after them would be stale.
 */
import { Context, type Effect, type Scope } from "effect"
import type { GpuError } from "./GpuError.ts"
import type { KernelName } from "./Kernel.ts"
import type { MatmulChoice } from "./MatmulVariant.ts"
import type { Dispatch, Tape } from "./Tape.ts"
import type { ElementType, Tensor } from "./Tensor.ts"

/** One shape of a matrix unit: [M, K] x [K, N] of one type with sums of another (f32, f16, u32, i32, u8, i8). */
export interface SubgroupMatrixConfig {
  readonly componentType: string
  readonly resultComponentType: string
  readonly M: number
  readonly N: number
  readonly K: number
}

/** What the adapter says of itself, and what was requested of it. */
export interface AdapterInfo {
  readonly name: string
  readonly vendor: string
  readonly architecture: string
  readonly driver: string
  readonly backend: "vulkan" | "metal" | "d3d12" | "null" | "unknown"
  /** True for drivers that compute on the CPU (lavapipe, SwiftShader). */
  readonly software: boolean
  readonly features: ReadonlyArray<string>
  readonly limits: Readonly<Record<string, number>>
  /** Smallest and largest subgroup; 0 where the device has none. */
  readonly subgroupSize: readonly [number, number]
  /** What the device's matrix units multiply; empty where there are none. */
  readonly subgroupMatrixConfigs: ReadonlyArray<SubgroupMatrixConfig>
  /** The matmul variants that a calibration found best; without it they follow from the capabilities alone. */
  readonly matmul?: MatmulChoice
}

/** Nanoseconds of one dispatch, from timestamps. */
export interface KernelTime {
  readonly kernel: KernelName
  readonly nanoseconds: number
}

/** One dispatch on the device's clock, in nanoseconds; only differences mean anything. */
export interface DispatchTime {
  readonly dispatch: Dispatch
  readonly start: number
  readonly end: number
}

/**
 * A stretch of host work for the device, in nanoseconds since the device was opened. `record` runs the caller's code,
 * `compile` looks pipelines up (and makes new ones), `encode` and `submit` are Dawn's, `read` and `wait` are waiting.
 */
export interface HostSpan {
  readonly phase: "record" | "compile" | "encode" | "submit" | "wait" | "read"
  readonly label: string
  readonly start: number
  readonly end: number
  /** Dispatches encoded; only `encode` has them. */
  readonly dispatches?: number
}

/** Hears what the device is given to do while it is installed (`Gpu.observe`). Must not fail. */
export interface Observer {
  /**
   * Times each dispatch: each then gets a pass of its own and every submit is waited for, so that wall times are not those of
   * ordinary work. Without timestamps on the device every submit is waited for all the same, and `onDispatches` is not called.
   */
  readonly dispatches: boolean
  readonly onSpan: (span: HostSpan) => void
  readonly onDispatches: (label: string, times: ReadonlyArray<DispatchTime>) => void
}

/**
 * Work that is submitted many times over, such as decoding steps: recorded once, so that later runs cost the host a tenth. What differs
 * from run to run must stand in buffers. Its tensors must outlive its last run; the device forgets it when nobody holds it.
 */
export interface Program {
  readonly label: string
  /** Records the same each time it is called. */
  readonly record: (tape: Tape) => void
}

export interface MemoryUse {
  readonly live: number
  readonly peak: number
  readonly budget: number
}

export type HostArray<E extends ElementType> = E extends "f32" ? Float32Array<ArrayBuffer> : Uint32Array<ArrayBuffer>

export class Gpu extends Context.Service<
  Gpu,
  {
    readonly info: AdapterInfo
    /** Allocates `length` zeroed elements; freed with the Scope. */
    alloc<E extends ElementType>(
      label: string,
      element: E,
      length: number
    ): Effect.Effect<Tensor<E>, GpuError, Scope.Scope>
    /** Uploads host data to the start of `tensor`. */
    write<E extends ElementType>(tensor: Tensor<E>, data: HostArray<E>): Effect.Effect<void, GpuError>
    /** Records and submits; does not wait for the device. */
    submit(label: string, record: (tape: Tape) => void): Effect.Effect<void, GpuError>
    /** Submits what `program` recorded, which happens the first time and again only when it has to. */
    run(program: Program): Effect.Effect<void, GpuError>
    /** Waits for all earlier submits and copies a tensor to the host. */
    read<E extends ElementType>(tensor: Tensor<E>): Effect.Effect<HostArray<E>, GpuError>
    /** Waits until all submitted work is done. */
    readonly idle: Effect.Effect<void, GpuError>
    /** Like `submit`, one pass per dispatch with timestamps; empty where the device has no timestamps. Waits. */
    profile(label: string, record: (tape: Tape) => void): Effect.Effect<ReadonlyArray<KernelTime>, GpuError>
    /** Runs `work` while `observer` hears of every submit and read on this device, whoever makes them. */
    observe<A, E, R>(observer: Observer, work: Effect.Effect<A, E, R>): Effect.Effect<A, E, R>
    /** Compiles the named kernels with the file's own constants and reports the first that fails. */
    compile(kernels: ReadonlyArray<KernelName>): Effect.Effect<void, GpuError>
    /** Device memory in bytes, as accounted here. */
    readonly memory: Effect.Effect<MemoryUse>
    /** Dispatches recorded since the start. */
    readonly dispatches: Effect.Effect<number>
  }
>()("@srcode/gpu/Gpu") {}
