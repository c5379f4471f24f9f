// forward.wgsl with one workgroup a row, for devices with fast workgroup memory: lanes stride over the columns and their
// sums meet in a tree of fixed shape.
requires immediate_address_space;

const WG = 128u; //@const a power of two

struct Params {
  rows: u32,
  dim: u32,
  eps: f32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> w: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@group(0) @binding(3) var<storage, read_write> rstd: array<f32>;

var<workgroup> sums: array<f32, WG>;

@compute @workgroup_size(WG, 1, 1)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>, @builtin(local_invocation_index) li: u32) {
  let row = wg.y * nwg.x + wg.x;
  if (row >= p.rows) { return; }
  let at = row * p.dim;
  var sum = 0.0;
  for (var c = li; c < p.dim; c += WG) {
    let v = x[at + c];
    sum = fma(v, v, sum);
  }
  sums[li] = sum;
  workgroupBarrier();
  for (var s = WG / 2u; s > 0u; s >>= 1u) {
    if (li < s) { sums[li] += sums[li + s]; }
    workgroupBarrier();
  }
  let r = 1.0 / sqrt(sums[0] / f32(p.dim) + p.eps);
  if (li == 0u) { rstd[row] = r; }
  for (var c = li; c < p.dim; c += WG) { y[at + c] = x[at + c] * r * w[c]; }
}
