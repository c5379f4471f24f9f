// The PPO objective per token with its gradients (system equations; Schulman et al. 2017), n response tokens, all carrying loss:
//   policy  -min(rho A, clip(rho, 1-low, 1+high) A), rho = exp(clamp(logp - old, -20, 20))
//   value   1/2 max((V-R)^2, (clip(V, Vold -+ value_clip) - R)^2), entropy -coef H, KL +coef KL(policy || reference)
// kind 0 clip, 1 dual clip (A < 0: at most -c A), 2 CISPO (weight min(rho, 1+high) held constant), 3 SAPO (4/tau sigmoid(tau (rho - 1))).
// grad[i] = (g_logp, g_entropy, g_kl), d_value[i]; metric[i] = (policy, value, entropy, kl, clipped, k3 = rho - 1 - log rho, rho, value clipped).
// Everything is scaled by inv_count, so sums over tokens are means. One invocation a token.
requires immediate_address_space;

const WG = 64u; //@const
const KIND = 0u; //@const

struct Params {
  n: u32,
  inv_count: f32,
  clip_low: f32,
  clip_high: f32,
  value_clip: f32,
  value_coef: f32,
  entropy_coef: f32,
  kl_coef: f32,
  dual_clip: f32,
  tau_positive: f32,
  tau_negative: f32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> scored: array<f32>; // [n, 4] logp, entropy, lse, kl
@group(0) @binding(1) var<storage, read> old: array<f32>; // [n, 2] log-probability, value at the time of sampling
@group(0) @binding(2) var<storage, read> advantage: array<f32>;
@group(0) @binding(3) var<storage, read> value: array<f32>;
@group(0) @binding(4) var<storage, read> returns: array<f32>;
@group(0) @binding(5) var<storage, read_write> grad: array<f32>; // [n, 3]
@group(0) @binding(6) var<storage, read_write> d_value: array<f32>;
@group(0) @binding(7) var<storage, read_write> metric: array<f32>; // [n, 8]

@compute @workgroup_size(WG, 1, 1)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>, @builtin(local_invocation_index) li: u32) {
  let i = (wg.y * nwg.x + wg.x) * WG + li;
  if (i >= p.n) { return; }
  let a = advantage[i];
  let log_ratio = scored[i * 4u] - old[2u * i];
  let inside = abs(log_ratio) <= 20.0;
  let bounded = clamp(log_ratio, -20.0, 20.0);
  let ratio = exp(bounded);
  let slope = select(0.0, ratio, inside); // d ratio / d logp

  var loss = 0.0;
  var g = 0.0;
  var clipped = 0.0;
  if (KIND == 2u) {
    let weight = min(ratio, 1.0 + p.clip_high);
    loss = -weight * a * scored[i * 4u];
    g = -weight * a;
    clipped = select(0.0, 1.0, ratio > 1.0 + p.clip_high);
  } else if (KIND == 3u) {
    let tau = select(p.tau_negative, p.tau_positive, a > 0.0);
    let gate = 1.0 / (1.0 + exp(-tau * (ratio - 1.0)));
    loss = -a * gate * 4.0 / tau;
    g = -a * 4.0 * gate * (1.0 - gate) * slope;
  } else {
    let plain = -ratio * a;
    let limited = -clamp(ratio, 1.0 - p.clip_low, 1.0 + p.clip_high) * a;
    loss = max(plain, limited);
    if (plain >= limited) { g = -a * slope; } else { clipped = 1.0; }
    if (KIND == 1u && a < 0.0 && loss > -p.dual_clip * a) {
      loss = -p.dual_clip * a;
      g = 0.0;
      clipped = 1.0;
    }
  }

  let v = value[i];
  let target_value = returns[i];
  let limited_value = clamp(v, old[2u * i + 1u] - p.value_clip, old[2u * i + 1u] + p.value_clip);
  let e1 = v - target_value;
  let e2 = limited_value - target_value;
  var g_value = e1;
  var value_loss = 0.5 * e1 * e1;
  var value_clipped = 0.0;
  if (e2 * e2 > e1 * e1) {
    value_loss = 0.5 * e2 * e2;
    value_clipped = 1.0;
    g_value = select(0.0, e2, limited_value == v);
  }

  grad[i * 3u] = g * p.inv_count;
  grad[i * 3u + 1u] = -p.entropy_coef * p.inv_count;
  grad[i * 3u + 2u] = p.kl_coef * p.inv_count;
  d_value[i] = p.value_coef * g_value * p.inv_count;
  metric[i * 8u] = loss * p.inv_count;
  metric[i * 8u + 1u] = value_loss * p.inv_count;
  metric[i * 8u + 2u] = scored[i * 4u + 1u] * p.inv_count;
  metric[i * 8u + 3u] = scored[i * 4u + 3u] * p.inv_count;
  metric[i * 8u + 4u] = clipped * p.inv_count;
  metric[i * 8u + 5u] = (ratio - 1.0 - bounded) * p.inv_count;
  metric[i * 8u + 6u] = ratio * p.inv_count;
  metric[i * 8u + 7u] = value_clipped * p.inv_count;
}
