// y[r,:] = x[r,:] * rstd[r] * w,  rstd[r] = 1 / sqrt(mean(x[r,:]^2) + eps). One invocation a row; rstd is kept for backward.
requires immediate_address_space;

const WG = 64u; //@const

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

@compute @workgroup_size(WG, 1, 1)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>, @builtin(local_invocation_index) li: u32) {
  let row = (wg.y * nwg.x + wg.x) * WG + li;
  if (row >= p.rows) { return; }
  let at = row * p.dim;
  var sum = 0.0;
  for (var c = 0u; c < p.dim; c++) {
    let v = x[at + c];
    sum = fma(v, v, sum);
  }
  let r = 1.0 / sqrt(sum / f32(p.dim) + p.eps);
  rstd[row] = r;
  for (var c = 0u; c < p.dim; c++) { y[at + c] = x[at + c] * r * w[c]; }
}
