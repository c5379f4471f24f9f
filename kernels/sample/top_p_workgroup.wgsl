// top_p.wgsl with one workgroup a row, for devices with fast workgroup memory. Same generator and same draw; the masses are added in another
// fixed order, so a token may differ where the random number falls on an edge of the distribution to the last bits.
//
// Lanes stride over the vocabulary for maximum and masses. For the draw each lane owns a block of neighbouring tokens, because the
// inverse CDF runs in token order.
requires immediate_address_space;

const WG = 256u; //@const a power of two

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

// Adds one value of every lane, in a tree. Every lane must call it.
fn add_lanes(li: u32, value: f32) -> f32 {
  sums[li] = value;
  workgroupBarrier();
  for (var s = WG / 2u; s > 0u; s >>= 1u) {
    if (li < s) { sums[li] += sums[li + s]; }
    workgroupBarrier();
  }
  let all = sums[0];
  workgroupBarrier();
  return all;
}

@compute @workgroup_size(WG, 1, 1)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>, @builtin(local_invocation_index) li: u32) {
  let row = wg.y * nwg.x + wg.x;
  if (row >= p.rows) { return; }
  let at = row * p.vocab;
  let greedy = p.inv_temperature <= 0.0;
  let inv_t = select(p.inv_temperature, 1.0, greedy);
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
  top = sums[0];
  best = places[0];
  workgroupBarrier();

  var own = 0.0;
  for (var c = li; c < p.vocab; c += WG) {
    let e = exp(logits[at + c] * inv_t - top);
    logits[at + c] = e;
    own += e;
  }
  storageBarrier();
  let total = add_lanes(li, own);
  var kept = total;
  if (li == 0u) { picked = best; }

  if (!greedy) {
    var threshold = 0u;
    if (p.top_p < 1.0) {
      // Invariant: mass at or above `low` reaches the goal, above `high` it does not.
      var low = 0u;
      var high = 0x3f800001u; // just above 1.0, the largest e
      let goal = p.top_p * total;
      for (var it = 0u; it < 31u; it++) {
        let middle = low + (high - low) / 2u;
        var mass = 0.0;
        for (var c = li; c < p.vocab; c += WG) {
          let e = logits[at + c];
          if (bitcast<u32>(e) >= middle) { mass += e; }
        }
        // No early exit: barriers want the same path in all lanes, and once high = low + 1 nothing moves.
        if (add_lanes(li, mass) >= goal) { low = middle; } else { high = middle; }
      }
      threshold = low;
    }
    let block = (p.vocab + WG - 1u) / WG;
    let first = min(li * block, p.vocab);
    let last = min(first + block, p.vocab);
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
    let random = f32(threefry(p.seed, stream[row], position[row], 0u) >> 8u) / 16777216.0;
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
    token[row] = picked;
    out[2u * row] = log(logits[at + picked] / total);
    out[2u * row + 1u] = kept / total;
  }
}
