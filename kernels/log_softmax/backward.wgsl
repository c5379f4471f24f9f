// Turns one chunk of recomputed logits into their gradient, in place:
//   dx = (1/T) [ g_lp ([c = target] - p) - g_H p (log p + H) + g_kl p (log p - log p_ref - KL) ],  p = exp(x - lse).
// grad[r] = (g_lp, g_H, g_kl): the loss gradients for the row's log-probability, entropy and KL.
// A workgroup takes `span` columns of one row, so that what belongs to the row is loaded once.
requires immediate_address_space;

const WG = 64u; //@const
const WITH_REF = 0u; //@const

struct Params {
  rows: u32,
  cols: u32,
  offset: u32,
  inv_temperature: f32,
  span: u32, // columns a workgroup
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
  let row = wg.z * nwg.y + wg.y;
  if (row >= p.rows) { return; }
  let last = min((wg.x + 1u) * p.span, p.cols);
  let entropy = out[row * 4u + 1u];
  let lse = out[row * 4u + 2u];
  let kl = out[row * 4u + 3u];
  let ref_lse = ref_out[row * 4u + 2u];
  let g_lp = grad[row * 3u];
  let g_entropy = grad[row * 3u + 1u];
  let g_kl = grad[row * 3u + 2u];
  let target_column = row_target[row];
  for (var c = wg.x * p.span + li; c < last; c += WG) {
    let i = row * p.cols + c;
    let log_p = logits[i] * p.inv_temperature - lse;
    let prob = exp(log_p);
    let hit = select(0.0, 1.0, target_column == c + p.offset);
    var d = g_lp * (hit - prob) - g_entropy * prob * (log_p + entropy);
    if (WITH_REF == 1u) {
      let log_ref = ref_logits[i] * p.inv_temperature - ref_lse;
      d += g_kl * prob * (log_p - log_ref - kl);
    }
    logits[i] = d * p.inv_temperature;
  }
}
