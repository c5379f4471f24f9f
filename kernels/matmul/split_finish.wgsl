// out = the sum of partial[splits][m][n] in that order + bias + residual (+ out): the second pass of a product whose inner dimension was split.
requires immediate_address_space;

const WG = 64u; //@const

struct Params {
  m: u32,
  n: u32, // a multiple of 4, as col0 and cols are
  splits: u32,
  flags: u32, // 1 bias, 2 residual, 4 accumulate
  col0: u32,
  cols: u32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> partial: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> bias: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read> residual: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read_write> out: array<vec4<f32>>;

@compute @workgroup_size(WG, 1, 1)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>, @builtin(local_invocation_index) li: u32) {
  let i = (wg.y * grid.x + wg.x) * WG + li;
  let quads = p.n / 4u;
  if (i >= p.m * quads) { return; }
  var y = vec4<f32>();
  for (var s = 0u; s < p.splits; s++) { y += partial[s * p.m * quads + i]; }
  let column = p.col0 / 4u + i % quads;
  let at = (i / quads) * (p.cols / 4u) + column;
  if ((p.flags & 1u) != 0u) { y += bias[column]; }
  if ((p.flags & 2u) != 0u) { y += residual[at]; }
  if ((p.flags & 4u) != 0u) { y += out[at]; }
  out[at] = y;
}
