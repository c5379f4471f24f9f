/**
 * The key-value cache on the device: for each layer one buffer of keys and one of values, cut into pages of `pageSize` rows
 * [kvHeads · headDim], and a page table [slots, maxPages] that names each slot's pages in order.
 */

import { type AdapterInfo, Gpu, type GpuError, pagedPartials, pageSize, type Tensor } from "@srcode/gpu"
import { Effect, type Scope } from "effect"
import type { ModelConfig } from "./Config.ts"

export interface PagedCache {
  readonly layers: ReadonlyArray<{ readonly k: Tensor<"f32">; readonly v: Tensor<"f32"> }>
  readonly pageTable: Tensor<"u32">
  /** Entries of a slot in the page table. */
  readonly maxPages: number
  /** Where attention of a few rows leaves its parts; absent where the device has no use for it. */
  readonly partial?: Tensor<"f32">
}

/** The cache with the slot that each row of a batch belongs to, as `forward` reads it. */
export interface CachedRows extends PagedCache {
  readonly slot: Tensor<"u32">
}

/** Bytes of one page over all layers, keys and values. */
export const pageBytes = (config: ModelConfig): number =>
  config.numLayers * 2 * pageSize * config.numKeyValueHeads * config.headDim * 4

/** Pages that one buffer may hold on this device, page 0 (nobody's) left out. */
export const largestPageCount = (config: ModelConfig, info: AdapterInfo): number => {
  const { maxBufferSize = Number.POSITIVE_INFINITY, maxStorageBufferBindingSize = Number.POSITIVE_INFINITY } =
    info.limits
  const bytes = pageSize * config.numKeyValueHeads * config.headDim * 4
  return Math.max(0, Math.floor(Math.min(maxBufferSize, maxStorageBufferBindingSize) / bytes) - 1)
}

export const allocPagedCache = (
  config: ModelConfig,
  options: { readonly slots: number; readonly maxPages: number; readonly pages: number }
): Effect.Effect<PagedCache, GpuError, Gpu | Scope.Scope> =>
  Effect.gen(function* () {
    const gpu = yield* Gpu
    const length = (options.pages + 1) * pageSize * config.numKeyValueHeads * config.headDim
    const layers: Array<PagedCache["layers"][number]> = []
    for (let i = 0; i < config.numLayers; i++) {
      layers.push({
        k: yield* gpu.alloc(`cache.${i}.k`, "f32", length),
        v: yield* gpu.alloc(`cache.${i}.v`, "f32", length)
      })
    }
    const pageTable = yield* gpu.alloc("cache.page_table", "u32", options.slots * options.maxPages)
    const heads = { heads: config.numHeads, kvHeads: config.numKeyValueHeads, headDim: config.headDim }
    const parts = pagedPartials(gpu.info, { ...heads, rows: options.slots }, options.maxPages)
    const partial = parts > 0 ? { partial: yield* gpu.alloc("cache.partial", "f32", parts) } : {}
    return { layers, pageTable, maxPages: options.maxPages, ...partial }
  })
