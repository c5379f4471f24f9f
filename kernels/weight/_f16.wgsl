// A weight matrix of 16-bit floats, two to a word. b_stride is a multiple of 8; columns past the last hold zeros.
@group(0) @binding(1) var<storage, read> b: array<vec2<u32>>;

fn b_row(row: u32) -> u32 { return row * (p.b_stride / 4u); }
fn b_quad(base: u32, quad: u32) -> vec4<f32> {
  let w = b[base + quad];
  return vec4<f32>(unpack2x16float(w.x), unpack2x16float(w.y));
}
fn b_scale(row: u32) -> f32 { return 1.0; }
