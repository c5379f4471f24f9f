// out = (scale, norm, not_finite): norm = sqrt(sum of blocks), scale = min(1, clip / (norm + 1e-6)) as in PyTorch's clip_grad_norm_ (clip 0 = no
// clipping), and 0 when any gradient was not finite, so that the optimiser leaves the weights alone. One invocation.
requires immediate_address_space;

struct Params {
  blocks: u32,
  clip: f32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> partial: array<f32>; // [blocks, 2]
@group(0) @binding(1) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(1, 1, 1)
fn main() {
  var sum = 0.0;
  var bad = 0.0;
  for (var b = 0u; b < p.blocks; b++) {
    sum += partial[2u * b];
    bad = max(bad, partial[2u * b + 1u]);
  }
  // A sum of finite squares may itself overflow.
  if ((bitcast<u32>(sum) & 0x7f800000u) == 0x7f800000u) { bad = 1.0; }
  let norm = sqrt(sum);
  var scale = 1.0;
  if (p.clip > 0.0) { scale = min(1.0, p.clip / (norm + 1.0e-6)); }
  if (bad > 0.5) { scale = 0.0; }
  out[0] = scale;
  out[1] = norm;
  out[2] = bad;
}
