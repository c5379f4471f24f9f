// A weight matrix of 16-bit floats in tiles, four input features at a time.
//@include weight/_f16_tiles_at.wgsl
@group(0) @binding(1) var<storage, read> b: array<vec2<u32>>;

fn b_row(row: u32) -> u32 { return tile_row(row, 0u, 4u); }
fn b_quad(base: u32, quad: u32) -> vec4<f32> {
  let w = b[base + (quad / 4u) * 64u + quad % 4u];
  return vec4<f32>(unpack2x16float(w.x), unpack2x16float(w.y));
}
fn b_scale(row: u32) -> f32 { return 1.0; }
