// From the state of all chunks: out[r] = (log-probability of the target, entropy in nats, log-sum-exp, KL(policy || reference) in nats; 0 without
// a reference). One invocation a row.
requires immediate_address_space;

const WG = 64u; //@const
const WITH_REF = 0u; //@const

struct Params {
  rows: u32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> state: array<f32>; // [rows, 5]
@group(0) @binding(1) var<storage, read> ref_out: array<f32>; // [rows, 4] of the reference
@group(0) @binding(2) var<storage, read_write> out: array<f32>; // [rows, 4]

@compute @workgroup_size(WG, 1, 1)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>, @builtin(local_invocation_index) li: u32) {
  let row = (wg.y * nwg.x + wg.x) * WG + li;
  if (row >= p.rows) { return; }
  let st = row * 5u;
  let s = state[st + 1u];
  let lse = state[st] + log(s);
  out[row * 4u] = state[st + 3u] - lse;
  out[row * 4u + 1u] = lse - state[st + 2u] / s;
  out[row * 4u + 2u] = lse;
  var kl = 0.0;
  if (WITH_REF == 1u) { kl = state[st + 4u] / s - lse + ref_out[row * 4u + 2u]; }
  out[row * 4u + 3u] = kl;
}
