// Puts together what forward_paged_flash.wgsl left of each span of SPAN keys, in order: m' = max(m1, m2), l' = l1 e^(m1 - m') + l2 e^(m2 - m'), o alike. One invocation a quad
// of the output; how many spans a row has follows from its own position.
requires immediate_address_space;

const WG = 64u; //@const
const SPAN = 128u; //@const

struct Params {
  rows: u32,
  heads: u32,
  quads: u32, // head_dim / 4
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> partial: array<vec4<f32>>; // [spans, rows, heads, quads + 1]
@group(0) @binding(1) var<storage, read> position: array<u32>;
@group(0) @binding(2) var<storage, read_write> o: array<vec4<f32>>;

@compute @workgroup_size(WG, 1, 1)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>, @builtin(local_invocation_index) li: u32) {
  let i = (wg.y * nwg.x + wg.x) * WG + li;
  let heads = p.rows * p.heads;
  if (i >= heads * p.quads) { return; }
  let head = i / p.quads;
  let spans = position[head / p.heads] / SPAN + 1u;
  var all_m = -3.0e38;
  var all_l = 0.0;
  var all = vec4<f32>();
  for (var span = 0u; span < spans; span++) {
    let at = (span * heads + head) * (p.quads + 1u);
    let state = partial[at + p.quads];
    let next = max(all_m, state.x);
    let old = exp(all_m - next);
    let new_part = exp(state.x - next);
    all_l = fma(all_l, old, state.y * new_part);
    all = fma(all, vec4<f32>(old), partial[at + i % p.quads] * new_part);
    all_m = next;
  }
  o[i] = all * (1.0 / all_l);
}
