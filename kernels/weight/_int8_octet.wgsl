// A weight matrix of signed bytes (see _int8.wgsl), eight input features at a time: fetched as stored, rounded to 16-bit floats when they
// are put to use, so that the load is not waited for.
@group(0) @binding(1) var<storage, read> b: array<vec2<u32>>;
@group(0) @binding(7) var<storage, read> scales: array<f32>; // [rows]

fn b_fetch(row: u32, octet: u32) -> vec4<u32> {
  return vec4<u32>(b[row * (p.b_stride / 8u) + octet], bitcast<u32>(scales[row]), 0u);
}
fn b_halves(raw: vec4<u32>) -> vec4<u32> {
  let factor = vec4<f32>(bitcast<f32>(raw.z));
  let x = vec4<f32>(unpack4xI8(raw.x)) * factor;
  let y = vec4<f32>(unpack4xI8(raw.y)) * factor;
  return vec4<u32>(pack2x16float(x.xy), pack2x16float(x.zw), pack2x16float(y.xy), pack2x16float(y.zw));
}
fn b_column_scale(quad: u32) -> vec4<f32> { return vec4<f32>(1.0); }
