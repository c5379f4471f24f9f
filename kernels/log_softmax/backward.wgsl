// Turns one chunk of recomputed logits into their gradient, in place:
//   dx = (1/T) [ g_lp ([c = target] - p) - g_H p (log p + H) + g_kl p (log p - log p_ref - KL) ],  p = exp(x - lse).
// grad[r] = (g_lp, g_H, g_kl): the loss gradients for the row's log-probability, entropy and KL. One invocation an element.
requires immediate_address_space;

const WG = 64u; //@const
const WITH_REF = 0u; //@const

struct Params {
  rows: u32,
  cols: u32,
  offset: u32,
  inv_temperature: f32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read_write> logits: array<f32>;
@group(0) @binding(1) var<storage, read> ref_logits: array<f32>;
@group(0) @binding(2) var<storage, read> row_target: array<u32>;
@group(0) @binding(3) var<storage, read> out: array<f32>; // [rows, 4] of finish
@group(0) @binding(4) var<storage, read> ref_out: array<f32>;
@group(0) @binding(5) var<storage, read> grad: array<f32>; // [rows, 3]

@compute @workgroup_size(WG, 1, 1)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>, @builtin(local_invocation_index) li: u32) {
  let i = (wg.y * nwg.x + wg.x) * WG + li;
  if (i >= p.rows * p.cols) { return; }
  let row = i / p.cols;
  let c = i % p.cols + p.offset;
  let log_p = logits[i] * p.inv_temperature - out[row * 4u + 2u];
  let prob = exp(log_p);
  let hit = select(0.0, 1.0, row_target[row] == c);
  var d = grad[row * 3u] * (hit - prob) - grad[row * 3u + 1u] * prob * (log_p + out[row * 4u + 1u]);
  if (WITH_REF == 1u) {
    let log_ref = ref_logits[i] * p.inv_temperature - ref_out[row * 4u + 2u];
    d += grad[row * 3u + 2u] * prob * (log_p - log_ref - out[row * 4u + 3u]);
  }
  logits[i] = d * p.inv_temperature;
}
