/** From a tape and its pipelines to one command buffer: all dispatches between two copies share a pass. */
import type { Dispatch, Tape } from "../Tape.ts"
import type { Compiled } from "./pipelines.ts"

const encodeDispatch = (
  device: GPUDevice,
  pass: GPUComputePassEncoder,
  entry: Dispatch,
  { layout, pipeline }: Compiled
): void => {
  pass.setPipeline(pipeline)
  pass.setBindGroup(
    0,
    device.createBindGroup({
      layout,
      entries: entry.tensors.map(([binding, tensor]) => ({
        binding,
        resource: { buffer: tensor.buffer, offset: tensor.offset * 4, size: Math.ceil(tensor.length / 4) * 16 }
      }))
    })
  )
  pass.setImmediates(0, entry.immediates)
  pass.dispatchWorkgroups(...entry.grid)
}

/** `compiled` holds the pipeline of each dispatch in order; with `passOf` each dispatch gets the pass that it begins. */
export const encodeTape = (
  device: GPUDevice,
  tape: Tape,
  compiled: ReadonlyArray<Compiled>,
  passOf?: (encoder: GPUCommandEncoder, index: number) => GPUComputePassEncoder
): GPUCommandBuffer => {
  const encoder = device.createCommandEncoder()
  let pass: GPUComputePassEncoder | undefined
  let index = 0
  for (const entry of tape.entries) {
    if (entry._tag === "Dispatch") {
      const own = passOf?.(encoder, index)
      pass ??= own ?? encoder.beginComputePass()
      encodeDispatch(device, pass, entry.dispatch, compiled[index++]!)
      if (own !== undefined) {
        own.end()
        pass = undefined
      }
      continue
    }
    pass?.end()
    pass = undefined
    if (entry._tag === "Clear")
      encoder.clearBuffer(entry.tensor.buffer, entry.tensor.offset * 4, entry.tensor.length * 4)
    else
      encoder.copyBufferToBuffer(
        entry.from.buffer,
        entry.from.offset * 4,
        entry.to.buffer,
        entry.to.offset * 4,
        entry.length * 4
      )
  }
  pass?.end()
  return encoder.finish()
}
