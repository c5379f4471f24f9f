// backward_qk_norm.wgsl with one workgroup a (row, head), as forward_qk_norm_workgroup.wgsl; a lane reads back only what it
// wrote itself.
requires immediate_address_space;

const WG = 64u; //@const a power of two

//@include rope/_qk_norm_params.wgsl

//@include rope/_backward_qk_norm_bindings.wgsl

// Sums of x^2 and of w g x.
var<workgroup> sums: array<vec2<f32>, WG>;

@compute @workgroup_size(WG, 1, 1)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>, @builtin(local_invocation_index) li: u32) {
  let i = wg.y * nwg.x + wg.x;
//@include rope/_qk_norm_head.wgsl
//@include rope/_backward_qk_norm_begin.wgsl
  for (var c = li; c < half; c += WG) {
//@include rope/_backward_qk_norm_pair.wgsl
  }
  sums[li] = vec2<f32>(square, dot);
  workgroupBarrier();
  for (var s = WG / 2u; s > 0u; s >>= 1u) {
    if (li < s) { sums[li] += sums[li + s]; }
    workgroupBarrier();
  }
  let r = 1.0 / sqrt(sums[0].x / f32(p.head_dim) + p.eps);
  let mean = r * sums[0].y / f32(p.head_dim);
  let to = at + p.kv_heads * p.head_dim;
  for (var c = li; c < half; c += WG) {
    dqkv[at + c] = r * (dqkv[at + c] - qkv[at + c] * r * mean);
    dqkv[at + half + c] = r * (dqkv[at + half + c] - qkv[at + half + c] * r * mean);
    if (!query) {
      dqkv[to + c] = dv[src + c];
      dqkv[to + half + c] = dv[src + half + c];
    }
  }
}
