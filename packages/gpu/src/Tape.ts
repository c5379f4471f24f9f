/**
 * The recorder: plain synchronous code that lines up typed dispatches, which `Gpu.submit` turns into one command buffer.
 *
 * It never throws. The first impossible dispatch (empty grid, a buffer both read and written, a view that is not
 * aligned) is remembered and fails the submit with the kernel's name and what was wrong.
 */
import { Result } from "effect"
import { type GpuError, gpuError, InvalidDispatch } from "./GpuError.ts"
import type { Bindings, Constants, Grid, KernelName, KernelSpec, Params } from "./Kernel.ts"
import { kernelSpec } from "./Kernel.ts"
import type { ElementType, Tensor } from "./Tensor.ts"
import { tensorAlignment } from "./Tensor.ts"

/** One dispatch, resolved: what the device layer needs to encode it. */
export interface Dispatch {
  readonly kernel: KernelName
  readonly constants: Readonly<Record<string, number>>
  readonly tensors: ReadonlyArray<readonly [binding: number, tensor: Tensor]>
  readonly immediates: Uint32Array<ArrayBuffer>
  readonly grid: readonly [number, number, number]
}

export type TapeEntry =
  | { readonly _tag: "Dispatch"; readonly dispatch: Dispatch }
  | { readonly _tag: "Copy"; readonly from: Tensor; readonly to: Tensor; readonly length: number }
  | { readonly _tag: "Clear"; readonly tensor: Tensor }

/** The largest number of workgroups in one grid dimension. */
export const maxGroups = 65535

/** Grid for `count` independent invocations in workgroups of `size`, folded into y past the device's limit. */
export const grid1d = (count: number, size: number): Grid => {
  const groups = Math.max(1, Math.ceil(count / size))
  if (groups <= maxGroups) return [groups]
  const y = Math.ceil(groups / maxGroups)
  return [Math.ceil(groups / y), y]
}

/**
 * Grid for kernels that take `span` columns of one row a workgroup: x counts spans, y and z rows. No invocation has to divide
 * by a row's length, which drivers that compute on the CPU do lane by lane.
 */
export const gridRows = (rows: number, cols: number, span: number): Grid => {
  const z = Math.max(1, Math.ceil(rows / maxGroups))
  return [Math.ceil(cols / span), Math.ceil(rows / z), z]
}

const pack = (spec: KernelSpec, params: Readonly<Record<string, number>>): Uint32Array<ArrayBuffer> => {
  const names = Object.keys(spec.params)
  const buffer = new ArrayBuffer(Math.max(16, names.length * 4))
  const u32 = new Uint32Array(buffer)
  const f32 = new Float32Array(buffer)
  names.forEach((name, i) => {
    const value = params[name] ?? 0
    if (spec.params[name] === "f32") f32[i] = value
    else u32[i] = value
  })
  return u32
}

const definedOnly = (values: Readonly<Record<string, number | undefined>>): Record<string, number> =>
  Object.fromEntries(Object.entries(values).filter((e): e is [string, number] => e[1] !== undefined))

const outside = (tensor: Tensor): string =>
  `covers elements ${tensor.offset}…${tensor.offset + tensor.length} of a buffer of ${tensor.buffer.size / 4}`

/** Gives a temporary buffer of at least `length` elements, or says why there is none. */
export type ScratchSource = (slot: string, element: ElementType, length: number) => Result.Result<Tensor, GpuError>

const noScratch: ScratchSource = (slot) =>
  Result.fail(
    gpuError(new InvalidDispatch({ kernel: slot, detail: "a tape without a device has no temporary buffers" }))
  )

export class Tape {
  readonly entries: Array<TapeEntry> = []
  failure: GpuError | undefined
  private readonly source: ScratchSource

  /** Without a source of temporary buffers, launches that need one fail. */
  constructor(source: ScratchSource = noScratch) {
    this.source = source
  }

  private reject(kernel: string, detail: string): void {
    this.failure ??= gpuError(new InvalidDispatch({ kernel, detail }))
  }

  private inside(tensor: Tensor): boolean {
    return tensor.offset >= 0 && (tensor.offset + tensor.length) * 4 <= tensor.buffer.size
  }

  /**
   * A temporary buffer of the device, one for each slot: contents last until the slot is asked for again. What writes it and what reads it
   * must follow each other on the tape.
   */
  scratch<E extends ElementType>(slot: string, element: E, length: number): Tensor<E> | undefined {
    const given = this.source(slot, element, length)
    if (Result.isSuccess(given)) return { ...given.success, element, length }
    this.failure ??= given.failure
    return undefined
  }

  /** States what a launch needs of its tensors; the first broken statement fails the submit. */
  require(condition: boolean, kernel: string, detail: string): void {
    if (!condition) this.reject(kernel, detail)
  }

  /** Records one dispatch of kernel `name` over `grid` workgroups. */
  dispatch<N extends KernelName>(
    name: N,
    bindings: Bindings<N>,
    params: Params<N>,
    grid: Grid,
    constants?: Constants<N>
  ): void {
    const spec = kernelSpec(name)
    const given: Readonly<Record<string, Tensor>> = bindings
    const full = [grid[0], grid[1] ?? 1, grid[2] ?? 1] as const
    if (full.some((n) => !Number.isInteger(n) || n < 0 || n > maxGroups)) {
      return this.reject(name, `grid [${full.join(", ")}] is outside 0…${maxGroups} workgroups`)
    }
    if (full.includes(0)) return
    const tensors: Array<readonly [number, Tensor]> = []
    const written = new Set<GPUBuffer>()
    const read = new Set<GPUBuffer>()
    for (const [bindingName, meta] of Object.entries(spec.bindings)) {
      const tensor = given[bindingName]
      if (tensor === undefined) return this.reject(name, `binding ${bindingName} is missing`)
      if (tensor.offset % tensorAlignment !== 0) {
        return this.reject(
          name,
          `binding ${bindingName} (${tensor.label}) starts at element ${tensor.offset}, not a multiple of ${tensorAlignment}`
        )
      }
      if (tensor.length <= 0) return this.reject(name, `binding ${bindingName} (${tensor.label}) is empty`)
      if (!this.inside(tensor)) return this.reject(name, `binding ${bindingName} (${tensor.label}) ${outside(tensor)}`)
      if (meta.access === "read") read.add(tensor.buffer)
      else if (written.has(tensor.buffer)) return this.reject(name, `buffer ${tensor.label} is bound for writing twice`)
      else written.add(tensor.buffer)
      tensors.push([meta.binding, tensor])
    }
    for (const buffer of written) {
      if (read.has(buffer)) return this.reject(name, `buffer ${buffer.label} is bound both for reading and for writing`)
    }
    for (const [key, value] of Object.entries<number>(params)) {
      if (spec.params[key] === "u32" && !(Number.isInteger(value) && value >= 0 && value <= 0xffffffff)) {
        return this.reject(name, `parameter ${key} = ${value} is not an unsigned 32-bit integer`)
      }
    }
    this.entries.push({
      _tag: "Dispatch",
      dispatch: {
        kernel: name,
        constants: definedOnly(constants ?? {}),
        tensors,
        immediates: pack(spec, params),
        grid: full
      }
    })
  }

  /** Copies `length` elements (default: all of `from`) between two buffers. */
  copy(from: Tensor, to: Tensor, length = from.length): void {
    if (length > from.length || length > to.length) {
      return this.reject("copy", `${length} elements from ${from.label} [${from.length}] to ${to.label} [${to.length}]`)
    }
    for (const tensor of [from, to]) {
      if (!this.inside(tensor)) return this.reject("copy", `${tensor.label} ${outside(tensor)}`)
    }
    if (from.buffer === to.buffer) return this.reject("copy", `${from.label} and ${to.label} are the same buffer`)
    if (length > 0) this.entries.push({ _tag: "Copy", from, to, length })
  }

  /** Sets every element to zero. */
  clear(tensor: Tensor): void {
    if (!this.inside(tensor)) return this.reject("clear", `${tensor.label} ${outside(tensor)}`)
    if (tensor.length > 0) this.entries.push({ _tag: "Clear", tensor })
  }
}
