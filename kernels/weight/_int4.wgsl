// A weight matrix of 4-bit numbers, eight to a word, in blocks of 32 along a row: w = scale * q + low, the block's scale and low as two
// 16-bit floats in one word. b_stride is a multiple of 32.
@group(0) @binding(1) var<storage, read> b: array<u32>;
@group(0) @binding(7) var<storage, read> scales: array<u32>; // [rows, b_stride / 32]

fn b_row(row: u32) -> u32 { return row * (p.b_stride / 8u); }
fn b_quad(base: u32, quad: u32) -> vec4<f32> {
  let bits = vec4<u32>(b[base + quad / 2u] >> ((quad & 1u) * 16u)) >> vec4<u32>(0u, 4u, 8u, 12u);
  let block = unpack2x16float(scales[base / 4u + quad / 8u]);
  return fma(vec4<f32>(bits & vec4<u32>(15u)), vec4<f32>(block.x), vec4<f32>(block.y));
}
fn b_scale(row: u32) -> f32 { return 1.0; }
