// partial[b] = (sum of squares of block b, 1 if any element is not finite). Finiteness is read from the exponent bits: compilers may
// assume that NaN never happens. One invocation a block.
requires immediate_address_space;

const WG = 64u; //@const

struct Params {
  n: u32,
  block: u32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> g: array<f32>;
@group(0) @binding(1) var<storage, read_write> partial: array<f32>; // [blocks, 2]

@compute @workgroup_size(WG, 1, 1)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>, @builtin(local_invocation_index) li: u32) {
  let b = (wg.y * nwg.x + wg.x) * WG + li;
  if (b * p.block >= p.n) { return; }
  let last = min((b + 1u) * p.block, p.n);
  var sum = 0.0;
  var bad = 0.0;
  for (var i = b * p.block; i < last; i++) {
    let v = g[i];
    if ((bitcast<u32>(v) & 0x7f800000u) == 0x7f800000u) { bad = 1.0; } else { sum = fma(v, v, sum); }
  }
  partial[2u * b] = sum;
  partial[2u * b + 1u] = bad;
}
