/**
 * Timestamps of any number of dispatches: a query set holds at most 4096, so there are as many sets as it takes, all
 * resolved into one buffer: start and end of each dispatch, 64-bit nanoseconds on the device's clock.
 */

const usage = { copySrc: 4, queryResolve: 512 }
/** Dispatches of one query set, two stamps each; 4096 stamps are the most that WebGPU allows. */
const perSet = 2048

export interface Timestamps {
  /** Begins the pass of dispatch `index`. */
  readonly pass: (encoder: GPUCommandEncoder, index: number) => GPUComputePassEncoder
  /** The command buffer that writes all stamps to `resolved`; to be submitted after the passes. */
  readonly resolve: () => GPUCommandBuffer
  readonly resolved: GPUBuffer
  readonly bytes: number
  readonly destroy: () => void
}

/** Undefined when there is nothing to time. */
export const makeTimestamps = (device: GPUDevice, dispatches: number): Timestamps | undefined => {
  if (dispatches === 0) return undefined
  const counts = Array.from({ length: Math.ceil(dispatches / perSet) }, (_, i) =>
    Math.min(perSet, dispatches - i * perSet)
  )
  const sets = counts.map((count) => device.createQuerySet({ type: "timestamp", count: 2 * count }))
  const bytes = dispatches * 16
  const resolved = device.createBuffer({ label: "timestamps", size: bytes, usage: usage.queryResolve | usage.copySrc })
  return {
    resolved,
    bytes,
    pass: (encoder, index) => {
      const slot = 2 * (index % perSet)
      return encoder.beginComputePass({
        timestampWrites: {
          querySet: sets[Math.floor(index / perSet)]!,
          beginningOfPassWriteIndex: slot,
          endOfPassWriteIndex: slot + 1
        }
      })
    },
    resolve: () => {
      const encoder = device.createCommandEncoder()
      for (const [i, set] of sets.entries()) encoder.resolveQuerySet(set, 0, 2 * counts[i]!, resolved, i * perSet * 16)
      return encoder.finish()
    },
    destroy: () => {
      for (const set of sets) set.destroy()
      resolved.destroy()
    }
  }
}
