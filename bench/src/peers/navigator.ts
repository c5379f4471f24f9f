/** Gives browser libraries what they look for: `navigator.gpu` and WebGPU's global names, from the `webgpu` package. */
import { create, globals } from "webgpu"

let instance: GPU | undefined

/** Installs the globals once; answers with the adapter's own description. */
export const provideNavigator = async (): Promise<string> => {
  if (instance === undefined) {
    instance = create(["enable-dawn-features=allow_unsafe_apis,vulkan_enable_f16_on_nvidia"])
    Object.assign(globalThis, globals)
    Object.defineProperty(globalThis, "navigator", {
      value: { gpu: instance, userAgent: "node", platform: process.platform, hardwareConcurrency: 1 },
      configurable: true,
      writable: true
    })
  }
  const adapter = await instance.requestAdapter({ powerPreference: "high-performance" })
  return adapter === null ? "none" : adapter.info.description || adapter.info.device || adapter.info.vendor
}
