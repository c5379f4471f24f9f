// A weight matrix of 4-bit numbers (see _int4.wgsl), 16 bytes of a row at a time: one block and its scale and low.
const QUADS = 8u; //@const numbers of a chunk / 4
@group(0) @binding(1) var<storage, read> b: array<vec4<u32>>;
@group(0) @binding(7) var<storage, read> scales: array<u32>; // [rows, b_stride / 32]

fn b_chunk(row: u32, chunk: u32) -> vec4<u32> { return b[row * (p.b_stride / 32u) + chunk]; }
fn b_block(row: u32, chunk: u32) -> u32 { return scales[row * (p.b_stride / 32u) + chunk]; }
fn b_part(chunk: vec4<u32>, block: u32, quad: u32) -> vec4<f32> {
  let bits = vec4<u32>(chunk[quad / 2u] >> ((quad & 1u) * 16u)) >> vec4<u32>(0u, 4u, 8u, 12u);
  let pair = unpack2x16float(block);
  return fma(vec4<f32>(bits & vec4<u32>(15u)), vec4<f32>(pair.x), vec4<f32>(pair.y));
}
fn b_scale(row: u32) -> f32 { return 1.0; }
