// A weight matrix of 32-bit floats, eight input features at a time as 16-bit floats (clamped to their range). b_stride must be a multiple of 4.
@group(0) @binding(1) var<storage, read> b: array<vec4<f32>>;

fn b_fetch(row: u32, octet: u32) -> vec4<u32> {
  let at = row * (p.b_stride / 4u) + octet * 2u;
  let x = clamp(b[at], vec4<f32>(-65504.0), vec4<f32>(65504.0));
  var y = vec4<f32>();
  if (octet * 8u + 4u < p.b_stride) { y = clamp(b[at + 1u], vec4<f32>(-65504.0), vec4<f32>(65504.0)); }
  return vec4<u32>(pack2x16float(x.xy), pack2x16float(x.zw), pack2x16float(y.xy), pack2x16float(y.zw));
}
fn b_halves(raw: vec4<u32>) -> vec4<u32> { return raw; }
fn b_column_scale(quad: u32) -> vec4<f32> { return vec4<f32>(1.0); }
