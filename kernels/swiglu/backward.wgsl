// dgate = dy * up * s (1 + gate (1 - s)), dup = dy * gate * s, s = sigmoid(gate), in place of gate and up.
// Workgroups as in forward.wgsl.
requires immediate_address_space;

const WG = 64u; //@const

struct Params {
  rows: u32,
  dim: u32, // F
  span: u32, // columns a workgroup
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read_write> gu: array<f32>;
@group(0) @binding(1) var<storage, read> dy: array<f32>;

@compute @workgroup_size(WG, 1, 1)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>, @builtin(local_invocation_index) li: u32) {
  let row = wg.z * nwg.y + wg.y;
  if (row >= p.rows) { return; }
  let last = min((wg.x + 1u) * p.span, p.dim);
  for (var c = wg.x * p.span + li; c < last; c += WG) {
    let at = row * 2u * p.dim + c;
    let g = gu[at];
    let u = gu[at + p.dim];
    let s = 1.0 / (1.0 + exp(-clamp(g, -80.0, 80.0)));
    let d = dy[row * p.dim + c];
    gu[at] = d * u * s * (1.0 + g * (1.0 - s));
    gu[at + p.dim] = d * g * s;
  }
}
