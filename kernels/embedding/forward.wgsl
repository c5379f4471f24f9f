// out[i,:] = table[id[i],:]: token embedding, and the selection of the rows that carry loss.
// A workgroup takes `span` columns of one row.
requires immediate_address_space;

const WG = 64u; //@const

struct Params {
  rows: u32,
  dim: u32,
  span: u32, // columns a workgroup
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> table: array<f32>;
@group(0) @binding(1) var<storage, read> id: array<u32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(WG, 1, 1)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>, @builtin(local_invocation_index) li: u32) {
  let row = wg.z * nwg.y + wg.y;
  if (row >= p.rows) { return; }
  let last = min((wg.x + 1u) * p.span, p.dim);
  let start = id[row] * p.dim;
  for (var c = wg.x * p.span + li; c < last; c += WG) { out[row * p.dim + c] = table[start + c]; }
}
