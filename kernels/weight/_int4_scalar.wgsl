// A weight matrix of 4-bit numbers (see _int4.wgsl), one number at a time.
@group(0) @binding(1) var<storage, read> b: array<u32>;
@group(0) @binding(7) var<storage, read> scales: array<u32>; // [rows, b_stride / 32]

fn b_at(row: u32, col: u32) -> f32 {
  let at = row * p.b_stride + col;
  let block = unpack2x16float(scales[at / 32u]);
  return fma(f32(extractBits(b[at / 8u], (at & 7u) * 4u, 4u)), block.x, block.y);
}
