// Part of the matrix-unit kernels. Workgroup memory is in units of 16 bytes: eight halves or four floats; rows are padded by one unit, which keeps matrix
// loads aligned and apart. Arrays have a row more than is used: some drivers count a whole stride for the last row of a load.
const BLOCK = KT * 16u; // keys (or, for gradients of keys, lines) a step
const OWNED = SGS * 16u; // lines (keys) of the workgroup, 16 a subgroup
const QUADS = DK * 4u;
const ROW = DK * 2u + 1u; // a head in halves
const ROW_F = KT * 4u + 1u; // a row of scores in floats
const ROW_H = KT * 2u + 1u; // and in halves
const LOG2E = 1.4426950408889634;
const LN2 = 0.6931471805599453;

// Not clamped: what is past the range of 16-bit floats becomes infinite and shows in the result.
fn pack8(x: vec4<f32>, y: vec4<f32>) -> vec4<u32> {
  return vec4<u32>(pack2x16float(x.xy), pack2x16float(x.zw), pack2x16float(y.xy), pack2x16float(y.zw));
}

// The power of two that brings numbers of at most `top` (the bits of a float) to 2^-4 … 2^-3: gradients are far below the range of 16-bit floats.
// Bounded so that sums can be moved from any such scale to any other.
fn scale_for(top: u32) -> f32 {
  return bitcast<f32>(u32(clamp(250 - i32(top >> 23u), 110, 187)) << 23u);
}
