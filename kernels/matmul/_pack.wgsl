// How a row's numbers get into the range of 16-bit floats: a power of two brings the largest to 2^14 … 2^15, so that nothing overflows and
// what is lost at the small end is 2^-40 of the largest. The power is exact both ways. A row with a number that is not finite gets a factor
// that is not a number, and so does every product of it.

// (factor to multiply with, its inverse) for a row whose largest magnitude has the bits `largest`.
fn factors(largest: u32) -> vec2<f32> {
  let exponent = largest >> 23u;
  if (exponent == 255u) { return vec2<f32>(0.0, bitcast<f32>(0x7fc00000u | (largest & 1u))); }
  let e = clamp(exponent, 15u, 253u);
  return vec2<f32>(bitcast<f32>((268u - e) << 23u), bitcast<f32>((e - 14u) << 23u));
}

fn halves(x: vec4<f32>, y: vec4<f32>) -> vec4<u32> {
  return vec4<u32>(pack2x16float(x.xy), pack2x16float(x.zw), pack2x16float(y.xy), pack2x16float(y.zw));
}

// x rounded to the 11 significant bits of a half. By its bits: compilers take unpacking what was packed for the number itself.
fn rounded(x: vec4<f32>) -> vec4<f32> {
  return bitcast<vec4<f32>>((bitcast<vec4<u32>>(x) + vec4<u32>(0x1000u)) & vec4<u32>(0xffffe000u));
}
