// Register tiles of 16-bit floats with sums in f32: a as pack.wgsl leaves it (alpha and a power of two for each row are in it).
alias E4 = vec4<f16>;
alias RawA = vec4<u32>; // eight numbers
alias RawB = vec4<u32>;

@group(0) @binding(0) var<storage, read> a: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> a_scale: array<f32>;

fn a_first(raw: RawA) -> E4 { return bitcast<vec4<f16>>(raw.xy); }
fn a_second(raw: RawA) -> E4 { return bitcast<vec4<f16>>(raw.zw); }
fn b_first(raw: RawB) -> E4 { return bitcast<vec4<f16>>(raw.xy); }
fn b_second(raw: RawB) -> E4 { return bitcast<vec4<f16>>(raw.zw); }
fn b_pack(x: vec4<f32>, y: vec4<f32>) -> RawB {
  let u = clamp(x, vec4<f32>(-65504.0), vec4<f32>(65504.0));
  let v = clamp(y, vec4<f32>(-65504.0), vec4<f32>(65504.0));
  return RawB(pack2x16float(u.xy), pack2x16float(u.zw), pack2x16float(v.xy), pack2x16float(v.zw));
}

// Rows of a are padded with zeros to whole panels, the second product's behind the first's.
fn a_fetch(r: u32, panel: u32, within: u32) -> RawA { return a[(r * p.a_stride + panel * DEPTH + within) / 8u]; }

fn b_octet(row: u32, col: u32, end: u32) -> RawB { return b_halves(b_fetch(row, col / 8u)); }

fn finish(r: u32, c: u32, split: u32, sum: vec4<f32>) {
  if (r < p.m && c < p.n) { emit(r, c, split, sum * a_scale[r] * b_column_scale(c / 4u)); }
}
