/**
 * The Gpu service over Dawn (the `webgpu` package): adapter choice, device, pipelines, submits.
 *
 * Unusual: pipelines are made inside synchronous recording, so compile errors arrive later through an error scope that
 * the submit waits for; one pipeline per expanded source text. Software drivers are told apart by the adapter's own
 * fallback flag, never by vendor name.
 */
import { Config, Effect, Layer, type Scope } from "effect"
import { Gpu } from "./Gpu.ts"
import type { GpuError } from "./GpuError.ts"
import { makeDevice } from "./internal/device.ts"

/** Which adapter to use. `hardware` refuses software drivers; `null` compiles everything and computes nothing. */
export type DeviceChoice = "auto" | "hardware" | "lavapipe" | "swiftshader" | "null"

export const deviceChoices: ReadonlyArray<DeviceChoice> = ["auto", "hardware", "lavapipe", "swiftshader", "null"]

export interface GpuOptions {
  readonly device: DeviceChoice
  /** Budget for device buffers in bytes; default: 3/4 of the machine's memory on software drivers, none on hardware. */
  readonly memory?: number
  /**
   * Dawn's toggle of that name: indices past the end of a buffer or array are no longer brought back inside. Only to measure what that
   * costs and to show that no kernel depends on it: one that did would read and write other tensors.
   */
  readonly disable_robustness?: boolean
}

/** A device beside others: it lives in the caller's Scope. */
export const open = (options: GpuOptions): Effect.Effect<Gpu["Service"], GpuError, Scope.Scope> => makeDevice(options)

/** The device as chosen by the caller. */
export const layerWith = (options: GpuOptions): Layer.Layer<Gpu, GpuError> => Layer.effect(Gpu, makeDevice(options))

/** The device as chosen by Config: `SRCODE_DEVICE` (default auto), `SRCODE_GPU_MEMORY` (bytes). */
export const layer = Layer.effect(
  Gpu,
  Effect.gen(function* () {
    const device = yield* Config.Literals(
      ["auto", "hardware", "lavapipe", "swiftshader", "null"],
      "SRCODE_DEVICE"
    ).pipe(Config.withDefault("auto" as const))
    const memory = yield* Config.Finite("SRCODE_GPU_MEMORY").pipe(Config.withDefault(0))
    return yield* makeDevice(memory > 0 ? { device, memory } : { device })
  })
)

/** Dawn's null backend: every shader and every dispatch is validated, nothing is computed. For tests. */
export const layerNull = layerWith({ device: "null" })
