// A weight matrix of 16-bit floats in tiles, one number at a time.
//@include weight/_f16_tiles_at.wgsl
@group(0) @binding(1) var<storage, read> b: array<u32>;

fn b_at(row: u32, col: u32) -> f32 { return unpack2x16float(b[tile_row(row, col / 16u, 2u) + (col % 16u) / 2u])[col & 1u]; }
