// A weight matrix of 16-bit floats (see _f16.wgsl), one number at a time.
@group(0) @binding(1) var<storage, read> b: array<u32>;

fn b_at(row: u32, col: u32) -> f32 {
  let at = row * p.b_stride + col;
  return unpack2x16float(b[at / 2u])[at & 1u];
}
