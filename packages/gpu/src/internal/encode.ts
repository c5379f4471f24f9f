/**
 * From a tape and its pipelines to command buffers: all dispatches between two copies share a pass.
 *
 * Making a bind group costs the host several times what all else of a dispatch does, so work that runs again keeps its own.
 */
import type { Dispatch, Tape } from "../Tape.ts"
import type { Compiled } from "./pipelines.ts"

/** A tape ready to be encoded, as often as wanted. */
export interface Work {
  readonly tape: Tape
  /** The pipeline of each dispatch, in order. */
  readonly compiled: ReadonlyArray<Compiled>
  /** The bind group of each dispatch as far as they were made; undefined for work that runs once. */
  readonly groups: Array<GPUBindGroup> | undefined
  /** The buffer behind a stand-in, now that it is known. */
  readonly bufferOf: (buffer: GPUBuffer) => GPUBuffer
}

export interface Piece {
  readonly commands: GPUCommandBuffer
  readonly dispatches: number
}

const bindGroup = (
  device: GPUDevice,
  { tensors }: Dispatch,
  layout: GPUBindGroupLayout,
  bufferOf: Work["bufferOf"]
): GPUBindGroup =>
  device.createBindGroup({
    layout,
    entries: tensors.map(([binding, tensor]) => ({
      binding,
      resource: { buffer: bufferOf(tensor.buffer), offset: tensor.offset * 4, size: Math.ceil(tensor.length / 4) * 16 }
    }))
  })

const encodeDispatch = (
  device: GPUDevice,
  pass: GPUComputePassEncoder,
  entry: Dispatch,
  index: number,
  { bufferOf, compiled, groups }: Work
): void => {
  const { layout, pipeline } = compiled[index]!
  const group = groups?.[index] ?? bindGroup(device, entry, layout, bufferOf)
  if (groups !== undefined) groups[index] = group
  pass.setPipeline(pipeline)
  pass.setBindGroup(0, group)
  pass.setImmediates(0, entry.immediates)
  pass.dispatchWorkgroups(...entry.grid)
}

/**
 * The tape in command buffers of at most `most` dispatches each, in order: the device can begin with the first while the next is
 * encoded. With `passOf` each dispatch gets the pass that it begins.
 */
export function* encodeTape(
  device: GPUDevice,
  work: Work,
  most = Number.POSITIVE_INFINITY,
  passOf?: (encoder: GPUCommandEncoder, index: number) => GPUComputePassEncoder
): Generator<Piece, void> {
  const { bufferOf } = work
  let encoder = device.createCommandEncoder()
  let pass: GPUComputePassEncoder | undefined
  let [index, first] = [0, 0]
  for (const entry of work.tape.entries) {
    if (entry._tag === "Dispatch") {
      if (index - first === most) {
        pass?.end()
        pass = undefined
        yield { commands: encoder.finish(), dispatches: most }
        encoder = device.createCommandEncoder()
        first = index
      }
      const own = passOf?.(encoder, index)
      pass ??= own ?? encoder.beginComputePass()
      encodeDispatch(device, pass, entry.dispatch, index++, work)
      if (own !== undefined) {
        own.end()
        pass = undefined
      }
      continue
    }
    pass?.end()
    pass = undefined
    if (entry._tag === "Clear")
      encoder.clearBuffer(bufferOf(entry.tensor.buffer), entry.tensor.offset * 4, entry.tensor.length * 4)
    else
      encoder.copyBufferToBuffer(
        bufferOf(entry.from.buffer),
        entry.from.offset * 4,
        bufferOf(entry.to.buffer),
        entry.to.offset * 4,
        entry.length * 4
      )
  }
  pass?.end()
  yield { commands: encoder.finish(), dispatches: index - first }
}
