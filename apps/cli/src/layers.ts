/** The composition root: which layer stands behind which service. The only place that decides it. */
import { UserError } from "@srcode/domain"
import { type DeviceChoice, deviceChoices, GpuDawn } from "@srcode/gpu"
import { Config, Effect, Layer, Option } from "effect"
import { srcode } from "./root.ts"

/** The compute device for a choice; `SRCODE_GPU_MEMORY` (bytes) bounds what it may allocate. */
export const gpuLayer = (device: DeviceChoice) =>
  Layer.unwrap(
    Effect.gen(function* () {
      const memory = yield* Config.Finite("SRCODE_GPU_MEMORY").pipe(
        Config.withDefault(0),
        Effect.mapError(() => new UserError({ message: "SRCODE_GPU_MEMORY must be a number of bytes" }))
      )
      return GpuDawn.layerWith(memory > 0 ? { device, memory } : { device })
    })
  )

/** `--device`, else `SRCODE_DEVICE`, else auto. */
export const chosenDevice = Effect.gen(function* () {
  const { device } = yield* srcode
  if (Option.isSome(device)) return device.value
  return yield* Config.Literals(deviceChoices, "SRCODE_DEVICE").pipe(
    Config.withDefault("auto" as const),
    Effect.mapError(() => new UserError({ message: `SRCODE_DEVICE must be one of ${deviceChoices.join(", ")}` }))
  )
})

/** The compute device that the command line asked for. */
export const gpuLayerFromFlags = Layer.unwrap(Effect.map(chosenDevice, gpuLayer))
