// Generalised advantage estimation (Schulman et al. 2016), as a reverse scan over packed sequences: tokens first[b]..first[b+1].
//   delta_t = r_t + gamma V_{t+1} - V_t,  A_t = delta_t + gamma lambda A_{t+1},  R_t = A_t + V_t;  V after the end = bootstrap[b].
// One invocation a sequence.
requires immediate_address_space;

const WG = 64u; //@const

struct Params {
  sequences: u32,
  gamma: f32,
  lambda: f32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> reward: array<f32>;
@group(0) @binding(1) var<storage, read> value: array<f32>;
@group(0) @binding(2) var<storage, read> first: array<u32>;
@group(0) @binding(3) var<storage, read> bootstrap: array<f32>;
@group(0) @binding(4) var<storage, read_write> advantage: array<f32>;
@group(0) @binding(5) var<storage, read_write> returns: array<f32>;

@compute @workgroup_size(WG, 1, 1)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>, @builtin(local_invocation_index) li: u32) {
  let b = (wg.y * nwg.x + wg.x) * WG + li;
  if (b >= p.sequences) { return; }
  var next_value = bootstrap[b];
  var running = 0.0;
  let low = first[b];
  for (var t = first[b + 1u]; t > low; t--) {
    let i = t - 1u;
    let v = value[i];
    running = reward[i] + p.gamma * next_value - v + p.gamma * p.lambda * running;
    advantage[i] = running;
    returns[i] = running + v;
    next_value = v;
  }
}
