/**
 * Starts Dawn on whatever driver the environment points at and runs one tiny kernel on it. Prints one line of JSON:
 * `{ name, vendor, architecture, software }`. Exit code 0 when the kernel gave the right numbers, 3 when there is no
 * adapter, 4 when there is one and it does not compute.
 *
 * A process of its own, because the Vulkan loader reads its environment once, at its first use, and because a broken
 * driver may end the process.
 */
import { writeSync } from "node:fs"
import { create, globals } from "webgpu"

const { GPUBufferUsage, GPUMapMode } = globals
const finish = (code, value) => {
  writeSync(1, `${JSON.stringify(value)}\n`)
  process.exit(code)
}

const gpu = create([])
const adapter = await gpu.requestAdapter({ powerPreference: "high-performance" }).catch(() => null)
if (adapter === null) finish(3, { reason: "no adapter" })

const { info } = adapter
const name = info.description || info.device || info.vendor || "unnamed adapter"
const about = {
  name,
  vendor: info.vendor,
  architecture: info.architecture,
  software: info.isFallbackAdapter === true || /llvmpipe|lavapipe|swiftshader/i.test(name)
}

try {
  const device = await adapter.requestDevice()
  const module = device.createShaderModule({
    code: `@group(0) @binding(0) var<storage, read_write> data: array<f32>;
@compute @workgroup_size(4) fn main(@builtin(global_invocation_id) id: vec3u) { data[id.x] = 2.0 * f32(id.x) + 1.0; }`
  })
  const pipeline = await device.createComputePipelineAsync({ layout: "auto", compute: { module, entryPoint: "main" } })
  const data = device.createBuffer({ size: 16, usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC })
  const back = device.createBuffer({ size: 16, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST })
  const group = device.createBindGroup({
    layout: pipeline.getBindGroupLayout(0),
    entries: [{ binding: 0, resource: { buffer: data } }]
  })
  const encoder = device.createCommandEncoder()
  const pass = encoder.beginComputePass()
  pass.setPipeline(pipeline)
  pass.setBindGroup(0, group)
  pass.dispatchWorkgroups(1)
  pass.end()
  encoder.copyBufferToBuffer(data, 0, back, 0, 16)
  device.queue.submit([encoder.finish()])
  await back.mapAsync(GPUMapMode.READ)
  const numbers = [...new Float32Array(back.getMappedRange())].join(" ")
  if (numbers !== "1 3 5 7") finish(4, { ...about, reason: `a test kernel gave ${numbers} instead of 1 3 5 7` })
} catch (error) {
  finish(4, { ...about, reason: String(error?.message ?? error).split("\n")[0] })
}
finish(0, about)
