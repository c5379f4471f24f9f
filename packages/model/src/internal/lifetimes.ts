/**
 * A static memory plan: tensors whose lifetimes do not overlap share a buffer. Lifetimes are spans of a fixed order of
 * steps, both ends inclusive, so two tensors of one buffer are never bound in the same dispatch.
 */
import { Gpu, type GpuError, type Tensor } from "@srcode/gpu"
import { Effect, type Scope } from "effect"

export type Span<S extends string> = readonly [from: S, to: S]

export interface Lifetime<S extends string> {
  readonly name: string
  readonly elements: number
  readonly spans: ReadonlyArray<Span<S>>
}

/** First fit decreasing: the largest tensor opens a buffer, each next one takes the first buffer that is free in all its spans. */
export const shareBuffers = <S extends string>(
  order: ReadonlyArray<S>,
  tensors: ReadonlyArray<Lifetime<S>>
): ReadonlyArray<ReadonlyArray<Lifetime<S>>> => {
  const at = new Map(order.map((step, i) => [step, i]))
  const overlap = (a: Lifetime<S>, b: Lifetime<S>): boolean =>
    a.spans.some(([from, to]) =>
      b.spans.some(([start, end]) => at.get(from)! <= at.get(end)! && at.get(start)! <= at.get(to)!)
    )
  const buffers: Array<Array<Lifetime<S>>> = []
  for (const tensor of tensors.toSorted((a, b) => b.elements - a.elements)) {
    const free = buffers.find((tenants) => !tenants.some((other) => overlap(other, tensor)))
    if (free === undefined) buffers.push([tensor])
    else free.push(tensor)
  }
  return buffers
}

export const snake = (name: string): string => name.replaceAll(/[A-Z]/g, (c) => `_${c.toLowerCase()}`)

/** Allocates the shared buffers; every tensor is a window at the start of one. */
export const allocShared = <S extends string>(
  prefix: string,
  order: ReadonlyArray<S>,
  tensors: ReadonlyArray<Lifetime<S>>
): Effect.Effect<ReadonlyMap<string, Tensor<"f32">>, GpuError, Gpu | Scope.Scope> =>
  Effect.gen(function* () {
    const gpu = yield* Gpu
    const windows = new Map<string, Tensor<"f32">>()
    for (const tenants of shareBuffers(order, tensors)) {
      const largest = tenants[0]!
      const buffer = yield* gpu.alloc(`${prefix}.${snake(largest.name)}`, "f32", largest.elements)
      for (const { name, elements } of tenants)
        windows.set(name, { ...buffer, label: `${prefix}.${snake(name)}`, length: elements })
    }
    return windows
  })
