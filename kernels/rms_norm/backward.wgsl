// dx[r,:] = rstd * (w*dy - xhat * mean(w*dy*xhat)) (+ dx when accumulating), xhat = x * rstd. One invocation a row.
requires immediate_address_space;

const WG = 64u; //@const

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

@compute @workgroup_size(WG, 1, 1)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>, @builtin(local_invocation_index) li: u32) {
  let row = (wg.y * nwg.x + wg.x) * WG + li;
  if (row >= p.rows) { return; }
  let at = row * p.dim;
  let r = rstd[row];
  var dot = 0.0;
  for (var c = 0u; c < p.dim; c++) { dot = fma(w[c] * dy[at + c], x[at + c] * r, dot); }
  let mean = dot / f32(p.dim);
  for (var c = 0u; c < p.dim; c++) {
    var g = r * (w[c] * dy[at + c] - x[at + c] * r * mean);
    if (p.accumulate != 0u) { g += dx[at + c]; }
    dx[at + c] = g;
  }
}
