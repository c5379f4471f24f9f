// Bradley-Terry: loss = -log sigmoid(chosen - rejected), mean over pairs; score[2i] is chosen, score[2i+1] rejected.
// metric[i] = (loss, correct) scaled by inv_count, 1 / pairs of the whole step. One invocation a pair.
requires immediate_address_space;

const WG = 64u; //@const

struct Params {
  pairs: u32,
  inv_count: f32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> score: array<f32>;
@group(0) @binding(1) var<storage, read_write> d_score: array<f32>;
@group(0) @binding(2) var<storage, read_write> metric: array<f32>; // [pairs, 2]

@compute @workgroup_size(WG, 1, 1)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>, @builtin(local_invocation_index) li: u32) {
  let i = (wg.y * nwg.x + wg.x) * WG + li;
  if (i >= p.pairs) { return; }
  let inv = p.inv_count;
  let d = score[2u * i] - score[2u * i + 1u];
  // log(1 + e^-d) without overflow
  let loss = max(-d, 0.0) + log(1.0 + exp(-abs(d)));
  let g = -1.0 / (1.0 + exp(clamp(d, -80.0, 80.0)));
  d_score[2u * i] = g * inv;
  d_score[2u * i + 1u] = -g * inv;
  metric[2u * i] = loss * inv;
  metric[2u * i + 1u] = select(0.0, inv, d > 0.0);
}
