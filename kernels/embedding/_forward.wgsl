requires immediate_address_space;

const WG = 64u; //@const

struct Params {
  rows: u32,
  dim: u32,
  span: u32, // columns a workgroup
  b_stride: u32, // numbers from one row of the table to the next
  first: u32, // the table's rows here are those of the ids first … first + count - 1; other ids are left to other parts
  count: u32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> id: array<u32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(WG, 1, 1)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>, @builtin(local_invocation_index) li: u32) {
  let row = wg.z * nwg.y + wg.y;
  if (row >= p.rows) { return; }
  let last = min((wg.x + 1u) * p.span, p.dim);
  let own = id[row] - p.first;
  if (own >= p.count) { return; }
  for (var c = wg.x * p.span + li; c < last; c += WG) { out[row * p.dim + c] = b_at(own, c); }
}
