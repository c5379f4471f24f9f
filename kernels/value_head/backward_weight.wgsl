// dw[c] += sum_r d_value[r] h[r,c] for c < dim, and dw[dim] += sum_r d_value[r] for the bias, in row order. One invocation a column.
requires immediate_address_space;

const WG = 64u; //@const

struct Params {
  rows: u32,
  dim: u32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> d_value: array<f32>;
@group(0) @binding(1) var<storage, read> h: array<f32>;
@group(0) @binding(2) var<storage, read_write> dw: array<f32>; // [dim + 1]

@compute @workgroup_size(WG, 1, 1)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>, @builtin(local_invocation_index) li: u32) {
  let c = (wg.y * nwg.x + wg.x) * WG + li;
  if (c > p.dim) { return; }
  var sum = dw[c];
  for (var r = 0u; r < p.rows; r++) {
    var x = 1.0;
    if (c < p.dim) { x = h[r * p.dim + c]; }
    sum = fma(d_value[r], x, sum);
  }
  dw[c] = sum;
}
