/**
 * Temporary buffers that kernels hand to each other within one tape: one for each slot, as large as the largest that was asked for.
 *
 * What a recording gets are stand-ins; `settle` makes the buffers behind them when its end is known, so none is ever made to be outgrown
 * by the same recording, and two sizes of one slot never live side by side. Hence what all recordings of a program take together is the
 * sum over slots of their largest, whatever their order: a plan that has seen the largest knows it to the byte.
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
  /** Makes what was recorded since the last call, or says why it cannot. Synchronously after the recording. */
  readonly settle: () => GpuError | undefined
  /** Forgets what was asked for since then: of a recording that will not run. */
  readonly drop: () => void
  /** The buffer behind a stand-in, as of now; any other buffer itself. */
  readonly bufferOf: (buffer: GPUBuffer) => GPUBuffer
  /** Another number once a buffer was replaced: bind groups that were made before must not be used again. */
  readonly generation: () => number
}

interface Slot {
  readonly label: string
  readonly standIn: GPUBuffer
  wanted: number
  buffer: GPUBuffer | undefined
}

export const makeScratch = (options: ScratchOptions): Scratch => {
  const slots = new Map<string, Slot>()
  const behind = new Map<GPUBuffer, Slot>()
  let generation = 0
  const refuse = (label: string, bytes: number, live: number, limit: number, limitName: string): GpuError =>
    gpuError(new OutOfMemory({ label, bytes, live, limit, limitName }))
  const slotOf = (name: string): Slot => {
    const known = slots.get(name)
    if (known !== undefined) return known
    const label = `scratch ${name}`
    // Only label and size are ever asked of it.
    const standIn = {
      label,
      get size() {
        return slot.wanted
      }
    } as GPUBuffer
    const slot: Slot = { label, standIn, wanted: 0, buffer: undefined }
    slots.set(name, slot)
    behind.set(standIn, slot)
    return slot
  }
  const drop = (): void => {
    for (const slot of slots.values()) slot.wanted = slot.buffer?.size ?? 0
  }
  const replace = (slot: Slot): GpuError | undefined => {
    // Work that was submitted before keeps what it uses.
    if (slot.buffer !== undefined) {
      options.account(-slot.buffer.size)
      slot.buffer.destroy()
      slot.buffer = undefined
      generation++
    }
    const full = options.account(slot.wanted)
    if (full !== undefined) return refuse(slot.label, slot.wanted, full.live, full.limit, full.name)
    slot.buffer = options.create(slot.label, slot.wanted)
    return undefined
  }
  return {
    source: (name, element, length) => {
      const bytes = Math.ceil(Math.max(1, length) / 4) * 16
      const slot = slotOf(name)
      if (bytes > options.largest)
        return Result.fail(refuse(slot.label, bytes, 0, options.largest, "the device's largest storage binding"))
      slot.wanted = Math.max(slot.wanted, bytes)
      const tensor: Tensor = { label: slot.label, element, offset: 0, length, buffer: slot.standIn }
      return Result.succeed(tensor)
    },
    settle: () => {
      for (const slot of slots.values()) {
        const failure = slot.wanted > (slot.buffer?.size ?? 0) ? replace(slot) : undefined
        if (failure === undefined) continue
        drop()
        return failure
      }
      return undefined
    },
    drop,
    bufferOf: (buffer) => behind.get(buffer)?.buffer ?? buffer,
    generation: () => generation
  }
}
