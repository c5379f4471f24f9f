// y[r,f] = silu(gate) * up with gate = gu[r,f], up = gu[r,F+f], silu(x) = x / (1 + exp(-x)).
// A workgroup takes `span` columns of one row: no integer division, which drivers that compute on the CPU do lane by lane.
requires immediate_address_space;

const WG = 64u; //@const

struct Params {
  rows: u32,
  dim: u32, // F
  span: u32, // columns a workgroup
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> gu: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(WG, 1, 1)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>, @builtin(local_invocation_index) li: u32) {
  let row = wg.z * nwg.y + wg.y;
  if (row >= p.rows) { return; }
  let last = min((wg.x + 1u) * p.span, p.dim);
  for (var c = wg.x * p.span + li; c < last; c += WG) {
    let at = row * 2u * p.dim + c;
    let g = gu[at];
    y[row * p.dim + c] = g / (1.0 + exp(-clamp(g, -80.0, 80.0))) * gu[at + p.dim];
  }
}
