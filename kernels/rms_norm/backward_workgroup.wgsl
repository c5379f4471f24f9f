// backward.wgsl with one workgroup a row, as forward_workgroup.wgsl.
requires immediate_address_space;

const WG = 128u; //@const a power of two

struct Params {
  rows: u32,
  dim: u32,
  accumulate: u32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> w: array<f32>;
@group(0) @binding(2) var<storage, read> rstd: array<f32>;
@group(0) @binding(3) var<storage, read> dy: array<f32>;
@group(0) @binding(4) var<storage, read_write> dx: array<f32>;

var<workgroup> sums: array<f32, WG>;

@compute @workgroup_size(WG, 1, 1)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>, @builtin(local_invocation_index) li: u32) {
  let row = wg.y * nwg.x + wg.x;
  if (row >= p.rows) { return; }
  let at = row * p.dim;
  let r = rstd[row];
  var dot = 0.0;
  for (var c = li; c < p.dim; c += WG) { dot = fma(w[c] * dy[at + c], x[at + c] * r, dot); }
  sums[li] = dot;
  workgroupBarrier();
  for (var s = WG / 2u; s > 0u; s >>= 1u) {
    if (li < s) { sums[li] += sums[li + s]; }
    workgroupBarrier();
  }
  let mean = sums[0] / f32(p.dim);
  for (var c = li; c < p.dim; c += WG) {
    var g = r * (w[c] * dy[at + c] - x[at + c] * r * mean);
    if (p.accumulate != 0u) { g += dx[at + c]; }
    dx[at + c] = g;
  }
}
