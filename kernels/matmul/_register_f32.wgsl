// Register tiles in f32: operands as they are, a multiplied by alpha on the way into the tile.
alias E4 = vec4<f32>;
alias RawA = mat2x4<f32>; // eight numbers
alias RawB = mat2x4<f32>;

@group(0) @binding(0) var<storage, read> a: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> a2: array<vec4<f32>>;

fn a_first(raw: RawA) -> E4 { return raw[0]; }
fn a_second(raw: RawA) -> E4 { return raw[1]; }
fn b_first(raw: RawB) -> E4 { return raw[0]; }
fn b_second(raw: RawB) -> E4 { return raw[1]; }
fn b_pack(x: vec4<f32>, y: vec4<f32>) -> RawB { return RawB(x, y); }

// Eight numbers of a at row r (MODE 2: eight rows from r on) and k within the panel; past the end of either dimension they are zero.
fn a_fetch(r: u32, panel: u32, within: u32) -> RawA {
  if (panel >= p.panels) {
    let k = (panel - p.panels) * DEPTH + within;
    if (k >= p.k2) { return RawA(); }
    let at = (r * p.k2 + k) / 4u;
    var y = vec4<f32>();
    if (k + 4u < p.k2) { y = a2[at + 1u]; }
    return RawA(a2[at], y);
  }
  let k = panel * DEPTH + within;
  if (k >= p.k) { return RawA(); }
  var y = vec4<f32>();
  if (MODE == 2u) {
    let at = (k * p.m + r) / 4u;
    if (r + 4u < p.m) { y = a[at + 1u]; }
    return RawA(p.alpha * a[at], p.alpha * y);
  }
  let at = (r * p.a_stride + p.a0 + k) / 4u;
  if (k + 4u < p.k) { y = a[at + 1u]; }
  return RawA(p.alpha * a[at], p.alpha * y);
}

// Eight neighbours of a row of b from `col` on, of which those before `end` are wanted.
fn b_octet(row: u32, col: u32, end: u32) -> RawB {
  let base = b_row(row);
  let factor = b_scale(row);
  var y = vec4<f32>();
  if (col + 4u < end) { y = factor * b_quad(base, col / 4u + 1u); }
  return RawB(factor * b_quad(base, col / 4u), y);
}

fn finish(r: u32, c: u32, split: u32, sum: vec4<f32>) { emit(r, c, split, sum); }
