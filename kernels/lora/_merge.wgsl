requires immediate_address_space;

const WG = 64u; //@const

struct Params {
  rows: u32,
  cols: u32,
  stride: u32, // numbers of a row, padding included
  first: u32,
  width: u32,
  scale: f32,
  span: u32, // words a workgroup
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read_write> w: array<u32>;
@group(0) @binding(1) var<storage, read> b: array<f32>;
@group(0) @binding(2) var<storage, read> a: array<f32>;

@compute @workgroup_size(WG, 1, 1)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>, @builtin(local_invocation_index) li: u32) {
  let row = wg.z * nwg.y + wg.y;
  if (row >= p.rows) { return; }
  let words = (p.cols + 1u) / 2u;
  let last = min((wg.x + 1u) * p.span, words);
  for (var word = wg.x * p.span + li; word < last; word += WG) {
    let col = 2u * word;
    let odd = col + 1u < p.cols;
    var sum = vec2<f32>();
    for (var r = 0u; r < p.width; r++) {
      let at = r * p.cols + col;
      var pair = vec2<f32>(a[at], 0.0);
      if (odd) { pair.y = a[at + 1u]; }
      sum = fma(vec2<f32>(b[(p.first + row) * p.width + r]), pair, sum);
    }
    let at = word_at(row, word);
    w[at] = pack2x16float(fma(vec2<f32>(p.scale), sum, unpack2x16float(w[at])));
  }
}
