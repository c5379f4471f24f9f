/** The compute device: service, errors, tensors, typed recorder, and the typed launches of every kernel. */
export * from "./Gpu.ts"
export * as GpuDawn from "./GpuDawn.ts"
export { type DeviceChoice, deviceChoices, type GpuOptions } from "./GpuDawn.ts"
export * from "./GpuError.ts"
export * from "./Kernel.ts"
export * from "./Ops.ts"
export * from "./Tape.ts"
export * from "./Tensor.ts"
