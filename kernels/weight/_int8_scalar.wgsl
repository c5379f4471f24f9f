// A weight matrix of signed bytes (see _int8.wgsl), one number at a time.
@group(0) @binding(1) var<storage, read> b: array<u32>;
@group(0) @binding(7) var<storage, read> scales: array<f32>; // [rows]

fn b_at(row: u32, col: u32) -> f32 {
  let at = row * p.b_stride + col;
  return f32(extractBits(i32(b[at / 4u]), (at & 3u) * 8u, 8u)) * scales[row];
}
