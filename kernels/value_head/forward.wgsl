// value[r] = h[r,:] . w + b: the scalar head of the critic and of the reward model. One invocation a row.
requires immediate_address_space;

const WG = 64u; //@const

struct Params {
  rows: u32,
  dim: u32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> h: array<f32>;
@group(0) @binding(1) var<storage, read> w: array<f32>; // [dim + 1]: weight, bias
@group(0) @binding(2) var<storage, read_write> value: array<f32>;

@compute @workgroup_size(WG, 1, 1)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>, @builtin(local_invocation_index) li: u32) {
  let row = (wg.y * nwg.x + wg.x) * WG + li;
  if (row >= p.rows) { return; }
  var sum = w[p.dim];
  for (var c = 0u; c < p.dim; c++) { sum = fma(h[row * p.dim + c], w[c], sum); }
  value[row] = sum;
}
