// stat[i, 1] = sum over d of dO[i, d] O[i, d] for every (row, head) i: what the tiled backward kernels subtract from dO V'.
requires immediate_address_space;

const WG = 64u; //@const

struct Params {
  count: u32, // rows * heads
  quads: u32, // head_dim / 4
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> o: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> d_o: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> stat: array<f32>; // [rows, heads, 2]

@compute @workgroup_size(WG, 1, 1)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>, @builtin(local_invocation_index) li: u32) {
  let i = (wg.y * nwg.x + wg.x) * WG + li;
  if (i >= p.count) { return; }
  var delta = 0.0;
  for (var d = 0u; d < p.quads; d++) { delta += dot(d_o[i * p.quads + d], o[i * p.quads + d]); }
  stat[2u * i + 1u] = delta;
}
