// A weight matrix of 16-bit floats in tiles, 16 bytes of a row at a time.
const QUADS = 2u; //@const numbers of a chunk / 4
//@include weight/_f16_tiles_at.wgsl
@group(0) @binding(1) var<storage, read> b: array<vec4<u32>>;

fn b_chunk(row: u32, chunk: u32) -> vec4<u32> { return b[tile_row(row, chunk / 2u, 8u) + chunk % 2u]; }
fn b_block(row: u32, chunk: u32) -> u32 { return 0u; }
fn b_part(chunk: vec4<u32>, block: u32, quad: u32) -> vec4<f32> {
  return vec4<f32>(unpack2x16float(chunk[quad * 2u]), unpack2x16float(chunk[quad * 2u + 1u]));
}
fn b_scale(row: u32) -> f32 { return 1.0; }
