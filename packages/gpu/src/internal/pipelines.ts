/** Compiles each expanded kernel text once and checks it against the committed manifest. */
import { createHash } from "node:crypto"
import { readFileSync } from "node:fs"
import { Effect } from "effect"
import { type GpuError, gpuError, ShaderInvalid } from "../GpuError.ts"
import { type KernelName, kernelSpec } from "../Kernel.ts"
import { expand } from "./template.ts"

const kernelsRoot = new URL("../../../../kernels/", import.meta.url)
const visibilityCompute = 4

export interface Compiled {
  readonly pipeline: GPUComputePipeline
  readonly layout: GPUBindGroupLayout
}

export interface Pipelines {
  get(kernel: KernelName, constants: Readonly<Record<string, number>>): Compiled
  /** Waits for compilations started since the last call; fails with the first that went wrong. */
  readonly settle: Effect.Effect<void, GpuError>
}

export const makePipelines = (device: GPUDevice, features: ReadonlySet<string>): Pipelines => {
  const cache = new Map<string, Compiled>()
  const layouts = new Map<string, GPUBindGroupLayout>()
  const sources = new Map<KernelName, string>()
  let pending: Array<Promise<GpuError | undefined>> = []

  const source = (kernel: KernelName): string => {
    const known = sources.get(kernel)
    if (known !== undefined) return known
    const spec = kernelSpec(kernel)
    const text = readFileSync(new URL(spec.file, kernelsRoot), "utf8")
    const hash = createHash("sha256").update(text).digest("hex").slice(0, 16)
    if (hash !== spec.hash) {
      pending.push(
        Promise.resolve(
          gpuError(
            new ShaderInvalid({ kernel, detail: "the file differs from the committed manifest: run `npm run codegen`" })
          )
        )
      )
    }
    sources.set(kernel, text)
    return text
  }

  const layoutOf = (kernel: KernelName): GPUBindGroupLayout => {
    const spec = kernelSpec(kernel)
    const key = JSON.stringify(Object.values(spec.bindings).map((b) => [b.binding, b.access]))
    const known = layouts.get(key)
    if (known !== undefined) return known
    const layout = device.createBindGroupLayout({
      entries: Object.values(spec.bindings).map((b) => ({
        binding: b.binding,
        visibility: visibilityCompute,
        buffer: { type: b.access === "read" ? ("read-only-storage" as const) : ("storage" as const) }
      }))
    })
    layouts.set(key, layout)
    return layout
  }

  const get = (kernel: KernelName, constants: Readonly<Record<string, number>>): Compiled => {
    const key = `${kernel}|${Object.entries(constants)
      .map(([k, v]) => `${k}=${v}`)
      .sort()
      .join(",")}`
    const known = cache.get(key)
    if (known !== undefined) return known
    const spec = kernelSpec(kernel)
    const text = expand(source(kernel), constants)
    const layout = layoutOf(kernel)
    const featureOf: Record<string, string> = {
      f16: "shader-f16",
      subgroups: "subgroups",
      subgroup_size_control: "subgroup-size-control"
    }
    const missing = spec.features.map((f) => featureOf[f] ?? f.replaceAll("_", "-")).filter((f) => !features.has(f))
    if (missing.length > 0) {
      pending.push(
        Promise.resolve(gpuError(new ShaderInvalid({ kernel, detail: `this device lacks ${missing.join(", ")}` })))
      )
    }
    device.pushErrorScope("validation")
    const module = device.createShaderModule({ label: kernel, code: text })
    const immediateSize = Math.max(16, Object.keys(spec.params).length * 4)
    const pipelineLayout = device.createPipelineLayout({ bindGroupLayouts: [layout], immediateSize })
    const pipeline = device.createComputePipeline({
      label: kernel,
      layout: pipelineLayout,
      compute: { module, entryPoint: "main" }
    })
    pending.push(
      device
        .popErrorScope()
        .then((error) => (error === null ? undefined : gpuError(new ShaderInvalid({ kernel, detail: error.message }))))
    )
    const compiled = { pipeline, layout }
    cache.set(key, compiled)
    return compiled
  }

  const settle = Effect.suspend(() => {
    if (pending.length === 0) return Effect.void
    const waiting = pending
    pending = []
    return Effect.flatMap(
      Effect.promise(() => Promise.all(waiting)),
      (results) => {
        const first = results.find((r) => r !== undefined)
        return first === undefined ? Effect.void : Effect.fail(first)
      }
    )
  })

  return { get, settle }
}
