/** Finds the adapter that was asked for and says what it can do. */
import { Effect } from "effect"
import { create } from "webgpu"
import type { AdapterInfo } from "../Gpu.ts"
import type { DeviceChoice, GpuOptions } from "../GpuDawn.ts"
import { gpuError, NoAdapter } from "../GpuError.ts"
import { matrixConfigs } from "./matrix-configs.ts"

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

/** The first adapter that is what is asked for, with the instance that it lives in. */
export const acquire = ({ device: choice, disable_robustness }: GpuOptions) =>
  Effect.gen(function* () {
    const toggles = ["allow_unsafe_apis", "vulkan_enable_f16_on_nvidia"]
    if (disable_robustness === true) toggles.push("disable_robustness")
    const flags = [`enable-dawn-features=${toggles.join(",")}`, "disable-dawn-features=timestamp_quantization"]
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
