// Zeroes what is outside the diagonal blocks of a grouped low-rank gradient db[out, groups * rank]: projections that share one fused weight
// (q, k, v; gate, up) each see only their own rank columns. Group g owns the output rows up to end_g. One invocation an element.
requires immediate_address_space;

const WG = 64u; //@const

struct Params {
  rows: u32, // out
  rank: u32,
  groups: u32, // 1, 2 or 3
  end0: u32,
  end1: u32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read_write> db: array<f32>;

@compute @workgroup_size(WG, 1, 1)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>, @builtin(local_invocation_index) li: u32) {
  let i = (wg.y * nwg.x + wg.x) * WG + li;
  let width = p.groups * p.rank;
  if (i >= p.rows * width) { return; }
  let row = i / width;
  var group = 0u;
  if (p.groups > 1u && row >= p.end0) { group = 1u; }
  if (p.groups > 2u && row >= p.end1) { group = 2u; }
  if ((i % width) / p.rank != group) { db[i] = 0.0; }
}
