// dh[r,:] (+)= d_value[r] * w. A workgroup takes `span` columns of one row.
requires immediate_address_space;

const WG = 64u; //@const

struct Params {
  rows: u32,
  dim: u32,
  span: u32, // columns a workgroup
  accumulate: u32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> d_value: array<f32>;
@group(0) @binding(1) var<storage, read> w: array<f32>;
@group(0) @binding(2) var<storage, read_write> dh: array<f32>;

@compute @workgroup_size(WG, 1, 1)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>, @builtin(local_invocation_index) li: u32) {
  let row = wg.z * nwg.y + wg.y;
  if (row >= p.rows) { return; }
  let last = min((wg.x + 1u) * p.span, p.dim);
  let upstream = d_value[row];
  for (var c = wg.x * p.span + li; c < last; c += WG) {
    let i = row * p.dim + c;
    var g = upstream * w[c];
    if (p.accumulate != 0u) { g += dh[i]; }
    dh[i] = g;
  }
}
