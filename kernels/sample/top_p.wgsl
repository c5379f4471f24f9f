// Samples one token a row from softmax(logits / T) cut to its nucleus: the smallest set of most likely tokens whose mass reaches top_p (ties with
// the last kept token stay in). The threshold is found by bisection on the bits of the probability, which order like the values; no sort.
// Each step moves the bounds on to the nearest probabilities that occur, so a dozen passes over the row do instead of thirty.
// Randomness: Threefry-2x32-20 keyed by (seed, stream[row]) and counted by position[row], so a row's tokens do not depend on its
// neighbours. temperature 0 (inv_temperature 0) takes the most likely token. token[row] and out[row] = (log-probability of
// the token under the full softmax at this temperature, kept mass). Logits are overwritten. One invocation a row.
requires immediate_address_space;

const WG = 64u; //@const

struct Params {
  rows: u32,
  vocab: u32,
  inv_temperature: f32,
  top_p: f32,
  seed: u32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read_write> logits: array<f32>;
@group(0) @binding(1) var<storage, read> stream: array<u32>;
@group(0) @binding(2) var<storage, read> position: array<u32>;
@group(0) @binding(3) var<storage, read_write> token: array<u32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>; // [rows, 2]

fn rotate(x: u32, n: u32) -> u32 { return (x << n) | (x >> (32u - n)); }

fn threefry(k0: u32, k1: u32, c0: u32, c1: u32) -> u32 {
  var ks = array<u32, 3>(k0, k1, 0x1BD11BDAu ^ k0 ^ k1);
  var rot = array<u32, 8>(13u, 15u, 26u, 6u, 17u, 29u, 16u, 24u);
  var x0 = c0 + k0;
  var x1 = c1 + k1;
  for (var r = 0u; r < 20u; r++) {
    x0 += x1;
    x1 = rotate(x1, rot[r % 8u]) ^ x0;
    if (r % 4u == 3u) {
      let s = r / 4u + 1u;
      x0 += ks[s % 3u];
      x1 += ks[(s + 1u) % 3u] + s;
    }
  }
  return x0;
}

@compute @workgroup_size(WG, 1, 1)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>, @builtin(local_invocation_index) li: u32) {
  let row = (wg.y * nwg.x + wg.x) * WG + li;
  if (row >= p.rows) { return; }
  let at = row * p.vocab;
  let greedy = p.inv_temperature <= 0.0;
  let inv_t = select(p.inv_temperature, 1.0, greedy);
  var top = -3.0e38;
  var best = 0u;
  for (var c = 0u; c < p.vocab; c++) {
    let x = logits[at + c] * inv_t;
    if (x > top) {
      top = x;
      best = c;
    }
  }
  var total = 0.0;
  for (var c = 0u; c < p.vocab; c++) {
    let e = exp(logits[at + c] * inv_t - top);
    logits[at + c] = e;
    total += e;
  }
  var chosen = best;
  var kept = total;
  if (!greedy) {
    var threshold = 0u;
    if (p.top_p < 1.0) {
      // Invariant: mass at or above `low` reaches the goal, above `high` it does not.
      var low = 0u;
      var high = 0x3f800001u; // just above 1.0, the largest e
      let goal = p.top_p * total;
      for (var it = 0u; it < 31u; it++) {
        if (high - low <= 1u) { break; }
        let middle = low + (high - low) / 2u;
        var mass = 0.0;
        var above = high; // the least bits that occur at or above the middle, and the greatest below it
        var below = low;
        for (var c = 0u; c < p.vocab; c++) {
          let e = logits[at + c];
          let bits = bitcast<u32>(e);
          let inside = bits >= middle;
          mass += select(0.0, e, inside);
          above = min(above, select(high, bits, inside));
          below = max(below, select(bits, low, inside));
        }
        if (mass >= goal) { low = max(above, middle); } else { high = below + 1u; }
      }
      threshold = low;
    }
    kept = 0.0;
    for (var c = 0u; c < p.vocab; c++) {
      let e = logits[at + c];
      if (bitcast<u32>(e) >= threshold) { kept += e; }
    }
    // 24 random bits: a uniform in [0, 1) that f32 holds exactly.
    let random = f32(threefry(p.seed, stream[row], position[row], 0u) >> 8u) / 16777216.0;
    let aim = random * kept;
    var run = 0.0;
    var found = false;
    for (var c = 0u; c < p.vocab; c++) {
      let e = logits[at + c];
      if (bitcast<u32>(e) >= threshold && e > 0.0) {
        run += e;
        if (!found) {
          chosen = c;
          if (run > aim) { found = true; }
        }
      }
    }
  }
  token[row] = chosen;
  out[2u * row] = log(logits[at + chosen] / total);
  out[2u * row + 1u] = kept / total;
}
