// to[i] = from[i] in quads: what the device's memory can do at most, n elements read and n written.
requires immediate_address_space;

const WG = 256u; //@const
const EACH = 4u; //@const quads an invocation, a workgroup apart so that neighbours read neighbours

struct Params {
  n: u32, // elements, a multiple of 4
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> source: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> copy: array<vec4<f32>>;

@compute @workgroup_size(WG, 1, 1)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>, @builtin(local_invocation_index) li: u32) {
  let first = (wg.y * nwg.x + wg.x) * WG * EACH + li;
  for (var e = 0u; e < EACH; e++) {
    let i = first + e * WG;
    if (i < p.n / 4u) { copy[i] = source[i]; }
  }
}
