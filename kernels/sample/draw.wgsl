// Draws one token a row from softmax(logits / T) cut to the tokens that pass the row's filters, and moves on to the next. Parameters are the row's own
// (settings [rows, 8]), so requests of all kinds share a batch. Filters keep the most likely tokens, one after the other:
//   top-k  the k most likely (0: all),
//   top-p  the smallest set of most likely ones whose mass reaches top_p of what top-k left (1: all),
//   min-p  those at least min_p times as likely as the most likely (0: all);
// tokens tied with the last kept one stay in. So a filter is a threshold on e = exp(logit / T - maximum), and the largest of the three decides. Thresholds of
// top-k and top-p are bracketed on the bits of e, which order like the values, four a pass; no sort. A bracket with one token in it is narrow enough.
//
// Randomness: Threefry-2x32-20 keyed by (seed, stream) and counted by position[row]: a row's token does not depend on its neighbours. Temperature 0 takes the
// most likely token. out [3, stride]: token; log-probability of the token under the full softmax at T (at 1 for T = 0); kept mass; the last two as bits.
//
// One workgroup a row: lanes stride over the vocabulary for maximum and masses; for the draw each lane owns a section of neighbouring tokens, because the
// inverse CDF runs in token order. Sums run in a fixed order for a given WG. Logits are overwritten.
requires immediate_address_space;

const WG = 256u; //@const a power of two

struct Params {
  rows: u32,
  vocab: u32,
  stride: u32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read_write> logits: array<f32>;
@group(0) @binding(1) var<storage, read> settings: array<u32>; // [rows, 8]: temperature, top_p, min_p (as bits), top_k, seed, stream, -, -
@group(0) @binding(2) var<storage, read> position: array<u32>;
@group(0) @binding(3) var<storage, read_write> out: array<u32>;

const full = 0x3f800001u; // just above 1.0, the largest e

var<workgroup> masses: array<vec4<f32>, WG>;
var<workgroup> counts: array<vec4<u32>, WG>;
var<workgroup> sums: array<f32, WG>;
var<workgroup> places: array<u32, WG>;
var<workgroup> picked: u32;

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

// A set of most likely tokens: the least bits of e that belong to it, their mass and their number.
struct Kept {
  bits: u32,
  mass: f32,
  count: u32,
}

// The smallest set inside `outer` with at least `mass` and `count`; `outer` must have both.
fn narrow(li: u32, at: u32, outer: Kept, mass: f32, count: u32) -> Kept {
  var low = outer;
  var high = full;
  var above = 0u; // tokens at or above high
  for (var it = 0u; it < 32u; it++) {
    if (high - low.bits <= 1u || low.count - above <= 1u) { break; }
    let span = high - low.bits;
    // Four inner bounds; in the last steps some coincide, which does no harm.
    let fifth = span / 5u;
    let rest = span % 5u;
    let t = vec4<u32>(low.bits) + fifth * vec4<u32>(1u, 2u, 3u, 4u) + (rest * vec4<u32>(1u, 2u, 3u, 4u) + 4u) / 5u;
    var m = vec4<f32>();
    var n = vec4<u32>();
    for (var c = li; c < p.vocab; c += WG) {
      let e = logits[at + c];
      let inside = vec4<u32>(bitcast<u32>(e)) >= t;
      m += select(vec4<f32>(), vec4<f32>(e), inside);
      n += select(vec4<u32>(), vec4<u32>(1u), inside);
    }
    masses[li] = m;
    counts[li] = n;
    workgroupBarrier();
    for (var s = WG / 2u; s > 0u; s >>= 1u) {
      if (li < s) {
        masses[li] += masses[li + s];
        counts[li] += counts[li + s];
      }
      workgroupBarrier();
    }
    m = workgroupUniformLoad(&masses[0]);
    n = workgroupUniformLoad(&counts[0]);
    for (var i = 0u; i < 4u; i++) {
      if (m[i] >= mass && n[i] >= count) {
        low = Kept(t[i], m[i], n[i]);
      } else {
        high = t[i];
        above = n[i];
        break;
      }
    }
  }
  return low;
}

@compute @workgroup_size(WG, 1, 1)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>, @builtin(local_invocation_index) li: u32) {
  let row = wg.y * nwg.x + wg.x;
  if (row >= p.rows) { return; }
  let at = row * p.vocab;
  let temperature = bitcast<f32>(settings[8u * row]);
  let top_p = bitcast<f32>(settings[8u * row + 1u]);
  let min_p = settings[8u * row + 2u];
  let top_k = settings[8u * row + 3u];
  let greedy = temperature <= 0.0;
  let inv_t = 1.0 / select(temperature, 1.0, greedy);
  var top = -3.0e38;
  var best = 0u;
  for (var c = li; c < p.vocab; c += WG) {
    let x = logits[at + c] * inv_t;
    if (x > top) {
      top = x;
      best = c;
    }
  }
  sums[li] = top;
  places[li] = best;
  workgroupBarrier();
  for (var s = WG / 2u; s > 0u; s >>= 1u) {
    if (li < s) {
      let other = sums[li + s];
      // Equal maxima: the smaller token, as when read in order. A lane without tokens stays at the floor.
      if (other > sums[li] || (other == sums[li] && places[li + s] < places[li])) {
        sums[li] = other;
        places[li] = places[li + s];
      }
    }
    workgroupBarrier();
  }
  top = workgroupUniformLoad(&sums[0]);
  best = workgroupUniformLoad(&places[0]);

  var own = 0.0;
  for (var c = li; c < p.vocab; c += WG) {
    let e = exp(logits[at + c] * inv_t - top);
    logits[at + c] = e;
    own += e;
  }
  sums[li] = own;
  workgroupBarrier();
  for (var s = WG / 2u; s > 0u; s >>= 1u) {
    if (li < s) { sums[li] += sums[li + s]; }
    workgroupBarrier();
  }
  let total = workgroupUniformLoad(&sums[0]);

  var kept = total;
  if (li == 0u) { picked = best; }
  if (!greedy) {
    var nucleus = Kept(0u, total, p.vocab);
    if (top_k > 0u && top_k < p.vocab) { nucleus = narrow(li, at, nucleus, -1.0, top_k); }
    if (top_p < 1.0) { nucleus = narrow(li, at, nucleus, top_p * nucleus.mass, 1u); }
    let threshold = max(nucleus.bits, min_p);
    storageBarrier();
    let section = (p.vocab + WG - 1u) / WG;
    let first = min(li * section, p.vocab);
    let last = min(first + section, p.vocab);
    var mine = 0.0;
    for (var c = first; c < last; c++) {
      let e = logits[at + c];
      if (bitcast<u32>(e) >= threshold) { mine += e; }
    }
    sums[li] = mine;
    workgroupBarrier();
    // All lanes add in the same order, so their prefixes join without gaps.
    var before = 0.0;
    kept = 0.0;
    for (var l = 0u; l < WG; l++) {
      if (l == li) { before = kept; }
      kept += sums[l];
    }
    let after = before + mine;
    // 24 random bits: a uniform in [0, 1) that f32 holds exactly.
    let random = f32(threefry(settings[8u * row + 4u], settings[8u * row + 5u], position[row], 0u) >> 8u) / 16777216.0;
    let aim = random * kept;
    // Rounding may lift the aim to the very end: then the last lane with mass takes it.
    if ((before <= aim && aim < after) || (aim >= kept && before < kept && after >= kept)) {
      var run = before;
      var chosen = best;
      for (var c = first; c < last; c++) {
        let e = logits[at + c];
        if (bitcast<u32>(e) >= threshold && e > 0.0) {
          chosen = c;
          run += e;
          if (run > aim) { break; }
        }
      }
      picked = chosen;
    }
    workgroupBarrier();
  }
  if (li == 0u) {
    out[row] = picked;
    out[p.stride + row] = bitcast<u32>(log(logits[at + picked] / total));
    out[2u * p.stride + row] = bitcast<u32>(kept / total);
  }
}
