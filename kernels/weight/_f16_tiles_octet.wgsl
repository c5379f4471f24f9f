// A weight matrix of 16-bit floats in tiles, eight input features at a time as they are stored.
//@include weight/_f16_tiles_at.wgsl
@group(0) @binding(1) var<storage, read> b: array<vec4<u32>>;

fn b_fetch(row: u32, octet: u32) -> vec4<u32> { return b[tile_row(row, octet / 2u, 8u) + octet % 2u]; }
fn b_halves(raw: vec4<u32>) -> vec4<u32> { return raw; }
fn b_column_scale(quad: u32) -> vec4<f32> { return vec4<f32>(1.0); }
