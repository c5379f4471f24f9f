/**
 * Compiles each expanded kernel text once and checks it against the committed manifest. What is wrong with a text stays
 * wrong: every later use of the same pipeline fails with the same reason, before anything is encoded with it.
 */
import { createHash } from "node:crypto"
import { readFileSync } from "node:fs"
import { Effect, Result } from "effect"
import { type GpuError, gpuError, ShaderInvalid } from "../GpuError.ts"
import { type KernelName, kernelSpec } from "../Kernel.ts"
import { expand, inline } from "./template.ts"

/** The folder of the kernel texts. */
export const kernelsRoot = new URL("../../../../kernels/", import.meta.url)
const visibilityCompute = 4

export interface Compiled {
  readonly pipeline: GPUComputePipeline
  readonly layout: GPUBindGroupLayout
}

/** One specialisation of a kernel: the name and its constants. */
export interface PipelineKey {
  readonly kernel: KernelName
  readonly constants: Readonly<Record<string, number>>
}

export interface Pipelines {
  /** The pipelines of `keys`, in their order; compiles what is new and fails with the first that is wrong. */
  resolve(keys: ReadonlyArray<PipelineKey>): Effect.Effect<ReadonlyArray<Compiled>, GpuError>
}

// Callers write constants in one order, so the text of the pairs identifies a pipeline; this runs once per dispatch.
const nameOf = ({ kernel, constants }: PipelineKey): string => {
  let name: string = kernel
  for (const key in constants) name += ` ${key}=${constants[key]}`
  return name
}

const featureOf: Readonly<Record<string, string>> = {
  f16: "shader-f16",
  subgroups: "subgroups",
  subgroup_size_control: "subgroup-size-control"
}

/** Where texts come from, and what becomes of them before they are compiled: tests emulate features that a device lacks. */
export interface KernelTexts {
  readonly root?: URL
  readonly rewrite?: (text: string) => string
}

export const makePipelines = (device: GPUDevice, features: ReadonlySet<string>, texts: KernelTexts = {}): Pipelines => {
  const { root = kernelsRoot, rewrite = (text: string) => text } = texts
  const cache = new Map<string, Result.Result<Compiled, GpuError>>()
  const layouts = new Map<string, GPUBindGroupLayout>()
  const sources = new Map<KernelName, Result.Result<string, GpuError>>()
  const invalid = (kernel: string, detail: string) => gpuError(new ShaderInvalid({ kernel, detail }))

  const load = (kernel: KernelName): Result.Result<string, GpuError> => {
    const spec = kernelSpec(kernel)
    const missing = spec.features.map((f) => featureOf[f] ?? f.replaceAll("_", "-")).filter((f) => !features.has(f))
    if (missing.length > 0 && texts.rewrite === undefined)
      return Result.fail(invalid(kernel, `this device lacks ${missing.join(", ")}`))
    return Result.try({
      try: () => {
        const read = (path: string) => readFileSync(new URL(path, root), "utf8")
        return inline(read(spec.file), read)
      },
      catch: () => invalid(kernel, `the file kernels/${spec.file} or a part of it cannot be read`)
    }).pipe(
      Result.filterOrFail(
        (text) => createHash("sha256").update(text).digest("hex").slice(0, 16) === spec.hash,
        () => invalid(kernel, "the file differs from the committed manifest: run `npm run codegen`")
      )
    )
  }

  const source = (kernel: KernelName): Result.Result<string, GpuError> => {
    const known = sources.get(kernel)
    if (known !== undefined) return known
    const text = load(kernel)
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

  const build = ({ kernel, constants }: PipelineKey, text: string): Effect.Effect<Compiled, GpuError> =>
    Effect.gen(function* () {
      const { compiling, layout, wrong } = yield* Effect.try({
        // One synchronous block between push and pop: error scopes are a stack of the device.
        try: () => {
          const layout = layoutOf(kernel)
          const immediateSize = Math.max(16, Object.keys(kernelSpec(kernel).params).length * 4)
          device.pushErrorScope("validation")
          const module = device.createShaderModule({ label: kernel, code: rewrite(expand(text, constants)) })
          // Drivers that compile here do so side by side, on threads of Dawn's.
          const compiling = device.createComputePipelineAsync({
            label: kernel,
            layout: device.createPipelineLayout({ bindGroupLayouts: [layout], immediateSize }),
            compute: { module, entryPoint: "main" }
          })
          return { compiling: Promise.allSettled([compiling]), layout, wrong: device.popErrorScope() }
        },
        catch: (cause) => invalid(kernel, String(cause))
      })
      const said = yield* Effect.tryPromise({ try: () => wrong, catch: (cause) => invalid(kernel, String(cause)) })
      const [compiled] = yield* Effect.promise(() => compiling)
      // What is wrong with the text says more than that the pipeline then is invalid.
      if (said !== null) return yield* Effect.fail(invalid(kernel, said.message))
      if (compiled.status === "rejected") return yield* Effect.fail(invalid(kernel, String(compiled.reason)))
      return { pipeline: compiled.value, layout }
    })

  const lookUp = (names: ReadonlyArray<string>): Effect.Effect<ReadonlyArray<Compiled>, GpuError> =>
    Effect.suspend(() => {
      const found: Array<Compiled> = []
      for (const name of names) {
        const result = cache.get(name)
        if (result === undefined) continue
        if (Result.isFailure(result)) return Effect.fail(result.failure)
        found.push(result.success)
      }
      return Effect.succeed(found)
    })

  const resolve = (keys: ReadonlyArray<PipelineKey>): Effect.Effect<ReadonlyArray<Compiled>, GpuError> =>
    Effect.suspend(() => {
      const names = keys.map(nameOf)
      const fresh = new Map<string, PipelineKey>()
      keys.forEach((key, i) => {
        if (!cache.has(names[i]!)) fresh.set(names[i]!, key)
      })
      if (fresh.size === 0) return lookUp(names)
      return Effect.forEach(
        fresh,
        ([name, key]) =>
          Effect.fromResult(source(key.kernel)).pipe(
            Effect.flatMap((text) => build(key, text)),
            Effect.result,
            Effect.map((result) => cache.set(name, result))
          ),
        { concurrency: "unbounded", discard: true }
      ).pipe(Effect.andThen(lookUp(names)))
    })

  return { resolve }
}
