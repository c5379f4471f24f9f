// y[r,f] = silu(gate) * up with gate = gu[r,f], up = gu[r,F+f], silu(x) = x / (1 + exp(-x)). One invocation an element.
requires immediate_address_space;

const WG = 64u; //@const

struct Params {
  rows: u32,
  dim: u32, // F
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> gu: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(WG, 1, 1)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>, @builtin(local_invocation_index) li: u32) {
  let i = (wg.y * nwg.x + wg.x) * WG + li;
  if (i >= p.rows * p.dim) { return; }
  let at = (i / p.dim) * 2u * p.dim + i % p.dim;
  let g = gu[at];
  y[i] = g / (1.0 + exp(-clamp(g, -80.0, 80.0))) * gu[at + p.dim];
}
