/**
 * Everything that can go wrong between a program and the device, with the operation's name and its shapes or sizes.
 * One class, a union of reasons: callers match with `Effect.catchReason("GpuError", "OutOfMemory", …)`.
 */
import { Schema } from "effect"

/** No adapter answered, or not the one asked for. `hint` says what to install or which flag to change. */
export class NoAdapter extends Schema.TaggedError<NoAdapter>()("NoAdapter", {
  requested: Schema.String,
  hint: Schema.String
}) {}

/**
 * An allocation would pass the memory budget or one of the device's limits, or the driver had no more memory to give; sizes
 * in bytes. The limit is infinite where the device does not say how much memory it has.
 */
export class OutOfMemory extends Schema.TaggedError<OutOfMemory>()("OutOfMemory", {
  label: Schema.String,
  bytes: Schema.Finite,
  live: Schema.Finite,
  limit: Schema.Number,
  limitName: Schema.String
}) {}

/** A kernel did not compile, is missing, or differs from the committed manifest. */
export class ShaderInvalid extends Schema.TaggedError<ShaderInvalid>()("ShaderInvalid", {
  kernel: Schema.String,
  detail: Schema.String
}) {}

/** A dispatch that cannot be right: shapes that do not fit, a buffer of the wrong size, a misaligned view. */
export class InvalidDispatch extends Schema.TaggedError<InvalidDispatch>()("InvalidDispatch", {
  kernel: Schema.String,
  detail: Schema.String
}) {}

/** The device went away (driver reset, unplugged, out of memory in the driver). The run has to start anew. */
export class DeviceLost extends Schema.TaggedError<DeviceLost>()("DeviceLost", { detail: Schema.String }) {}

/** Dawn reported an error outside of any scope: later results would be stale, so the run stops here. */
export class Validation extends Schema.TaggedError<Validation>()("Validation", {
  operation: Schema.String,
  detail: Schema.String
}) {}

/** The limit of a driver that refused: nobody knows its number. */
const freeMemory = "the device's free memory"

const firstLine = (text: string): string => text.split("\n").find((line) => line.trim() !== "") ?? ""

type Reason = NoAdapter | OutOfMemory | ShaderInvalid | InvalidDispatch | DeviceLost | Validation

const needLess =
  "hold the weights in less (--quantize int8 or int4, where the command takes it), take smaller batches or shorter sequences"

const describeMemory = ({ bytes, label, limit, limitName, live }: OutOfMemory): string => {
  const wanted = `not enough device memory for ${label}: ${bytes} bytes wanted with ${live} in use`
  switch (limitName) {
    case "the memory budget":
      return `${wanted}, ${bytes + live - limit} more than the memory budget of ${limit}; ${needLess}, or raise SRCODE_GPU_MEMORY`
    case freeMemory:
      return `the device has no memory left at "${label}", with ${live} bytes of srcode's own in use (compare the memory plan, where one was told); ${needLess}, and set SRCODE_GPU_MEMORY to the card's bytes to be told before anything is loaded`
    default:
      return `${wanted}, and ${limitName} is ${limit}; ${needLess}`
  }
}

const describe = (r: Reason): string => {
  switch (r._tag) {
    case "NoAdapter":
      return `no usable GPU adapter for --device ${r.requested}: ${r.hint}`
    case "OutOfMemory":
      return describeMemory(r)
    case "ShaderInvalid":
      return `kernel ${r.kernel} is invalid: ${firstLine(r.detail)}`
    case "InvalidDispatch":
      return `kernel ${r.kernel} called wrongly: ${firstLine(r.detail)}`
    case "DeviceLost":
      return `the GPU device was lost: ${firstLine(r.detail)}; ${/out.?of.?(?:\w+.)?memory/i.test(r.detail) ? `${needLess}, and ` : ""}start the same command again to resume`
    case "Validation":
      return `the GPU rejected ${r.operation}: ${firstLine(r.detail)}`
  }
}

export class GpuError extends Schema.TaggedError<GpuError>()("GpuError", {
  reason: Schema.Union([NoAdapter, OutOfMemory, ShaderInvalid, InvalidDispatch, DeviceLost, Validation])
}) {
  /** One line for a person, with what to do where we know it. */
  override get message(): string {
    return describe(this.reason)
  }
}

export const gpuError = (reason: GpuError["reason"]): GpuError => new GpuError({ reason })
