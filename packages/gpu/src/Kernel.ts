/**
 * Types that follow from the generated manifest: which buffers and which scalars a kernel takes. A missing binding, a
 * buffer of another element type or a misspelt parameter does not compile.
 */
import { manifest } from "./manifest.ts"
import type { ElementType, Tensor } from "./Tensor.ts"

/** What reflection knows of one kernel. `params` are 32-bit scalars in the immediate block, in byte order. */
export interface KernelSpec {
  readonly file: string
  readonly hash: string
  readonly workgroupSize: readonly [number | string, number | string, number | string]
  readonly features: ReadonlyArray<string>
  readonly bindings: Readonly<
    Record<string, { readonly binding: number; readonly access: "read" | "read_write"; readonly element: ElementType }>
  >
  readonly params: Readonly<Record<string, "u32" | "f32">>
  /** Constants that a caller may specialise, with the value that stands in the file. */
  readonly constants: Readonly<Record<string, number>>
}

export type Manifest = typeof manifest
export type KernelName = keyof Manifest

/** The buffers of kernel `N` by binding name. */
export type Bindings<N extends KernelName> = {
  readonly [B in keyof Manifest[N]["bindings"]]: Manifest[N]["bindings"][B] extends {
    readonly element: infer E extends ElementType
  }
    ? Tensor<E>
    : never
}

/** The scalars of kernel `N` by name. */
export type Params<N extends KernelName> = { readonly [P in keyof Manifest[N]["params"]]: number }

/** Specialised constants of kernel `N`; what is left out keeps the file's value. */
export type Constants<N extends KernelName> = { readonly [C in keyof Manifest[N]["constants"]]?: number }

export type Grid = readonly [x: number, y?: number, z?: number]

export const kernelNames = Object.keys(manifest).sort() as ReadonlyArray<KernelName>

export const kernelSpec = (name: KernelName): KernelSpec => manifest[name]
