// dh[r,:] (+)= d_value[r] * w. One invocation an element.
requires immediate_address_space;

const WG = 64u; //@const

struct Params {
  rows: u32,
  dim: u32,
  accumulate: u32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> d_value: array<f32>;
@group(0) @binding(1) var<storage, read> w: array<f32>;
@group(0) @binding(2) var<storage, read_write> dh: array<f32>;

@compute @workgroup_size(WG, 1, 1)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>, @builtin(local_invocation_index) li: u32) {
  let i = (wg.y * nwg.x + wg.x) * WG + li;
  if (i >= p.rows * p.dim) { return; }
  var g = d_value[i / p.dim] * w[i % p.dim];
  if (p.accumulate != 0u) { g += dh[i]; }
  dh[i] = g;
}
