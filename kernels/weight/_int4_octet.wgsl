// A weight matrix of 4-bit numbers (see _int4.wgsl), eight input features at a time: fetched as stored, rounded to 16-bit floats when
// they are put to use.
@group(0) @binding(1) var<storage, read> b: array<u32>;
@group(0) @binding(7) var<storage, read> scales: array<u32>; // [rows, b_stride / 32]

fn b_fetch(row: u32, octet: u32) -> vec4<u32> {
  let at = row * (p.b_stride / 8u) + octet;
  return vec4<u32>(b[at], scales[at / 4u], 0u, 0u);
}
fn b_halves(raw: vec4<u32>) -> vec4<u32> {
  let block = unpack2x16float(raw.y);
  let low = (vec4<u32>(raw.x) >> vec4<u32>(0u, 4u, 8u, 12u)) & vec4<u32>(15u);
  let high = (vec4<u32>(raw.x) >> vec4<u32>(16u, 20u, 24u, 28u)) & vec4<u32>(15u);
  let x = fma(vec4<f32>(low), vec4<f32>(block.x), vec4<f32>(block.y));
  let y = fma(vec4<f32>(high), vec4<f32>(block.x), vec4<f32>(block.y));
  return vec4<u32>(pack2x16float(x.xy), pack2x16float(x.zw), pack2x16float(y.xy), pack2x16float(y.zw));
}
fn b_column_scale(quad: u32) -> vec4<f32> { return vec4<f32>(1.0); }
