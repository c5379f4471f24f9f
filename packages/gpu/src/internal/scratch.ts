/**
 * Temporary buffers that kernels hand to each other within one tape: one for each slot, grown when more is asked for and kept.
 *
 * A buffer that was outgrown may still be used by what was recorded before, so it goes only when `collect` is called after the submit.
 */
import { Result } from "effect"
import { type GpuError, gpuError, OutOfMemory } from "../GpuError.ts"
import type { ScratchSource } from "../Tape.ts"
import type { Tensor } from "../Tensor.ts"

export interface ScratchOptions {
  /** The most bytes one buffer may have. */
  readonly largest: number
  readonly create: (label: string, bytes: number) => GPUBuffer
  /** Accounts for `bytes` more, or fewer when negative; the limit that would be passed, where one would. */
  readonly account: (
    bytes: number
  ) => { readonly limit: number; readonly name: string; readonly live: number } | undefined
}

export interface Scratch {
  readonly source: ScratchSource
  /** Frees what was outgrown; call it when nothing recorded is yet to be submitted. */
  readonly collect: () => void
  /** Another number once a buffer was outgrown: what was recorded before must not run again. */
  readonly generation: () => number
}

export const makeScratch = (options: ScratchOptions): Scratch => {
  const slots = new Map<string, Tensor>()
  const outgrown: Array<GPUBuffer> = []
  let generation = 0
  const refuse = (label: string, bytes: number, live: number, limit: number, limitName: string) =>
    Result.fail<GpuError>(gpuError(new OutOfMemory({ label, bytes, live, limit, limitName })))
  return {
    source: (slot, element, length) => {
      const bytes = Math.ceil(Math.max(1, length) / 4) * 16
      const known = slots.get(slot)
      if (known !== undefined && known.buffer.size >= bytes) return Result.succeed(known)
      const label = `scratch ${slot}`
      if (bytes > options.largest)
        return refuse(label, bytes, 0, options.largest, "the device's largest storage binding")
      const full = options.account(bytes)
      if (full !== undefined) return refuse(label, bytes, full.live, full.limit, full.name)
      if (known !== undefined) {
        outgrown.push(known.buffer)
        generation++
      }
      const tensor: Tensor = { label, element, offset: 0, length, buffer: options.create(label, bytes) }
      slots.set(slot, tensor)
      return Result.succeed(tensor)
    },
    collect: () => {
      for (const buffer of outgrown.splice(0)) {
        options.account(-buffer.size)
        buffer.destroy()
      }
    },
    generation: () => generation
  }
}
