// finish.wgsl with one workgroup instead of one invocation: lanes stride over the blocks, a tree of fixed shape joins them.
requires immediate_address_space;

const WG = 256u; //@const a power of two

struct Params {
  blocks: u32,
  clip: f32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> partial: array<f32>; // [blocks, 2]
@group(0) @binding(1) var<storage, read_write> out: array<f32>;

var<workgroup> sums: array<vec2<f32>, WG>;

@compute @workgroup_size(WG, 1, 1)
fn main(@builtin(local_invocation_index) li: u32) {
  var own = vec2<f32>();
  for (var b = li; b < p.blocks; b += WG) { own += vec2<f32>(partial[2u * b], partial[2u * b + 1u]); }
  sums[li] = own;
  workgroupBarrier();
  for (var s = WG / 2u; s > 0u; s >>= 1u) {
    if (li < s) { sums[li] += sums[li + s]; }
    workgroupBarrier();
  }
  if (li == 0u) {
    let sum = sums[0].x;
    var bad = min(sums[0].y, 1.0);
    if ((bitcast<u32>(sum) & 0x7f800000u) == 0x7f800000u) { bad = 1.0; }
    let norm = sqrt(sum);
    var scale = 1.0;
    if (p.clip > 0.0) { scale = min(1.0, p.clip / (norm + 1.0e-6)); }
    if (bad > 0.5) { scale = 0.0; }
    out[0] = scale;
    out[1] = norm;
    out[2] = bad;
  }
}
