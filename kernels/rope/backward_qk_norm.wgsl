// The adjoint of forward_qk_norm.wgsl with respect to qkv (the norm's weights are frozen): turns the gradient back, then
// dx = rstd * (w g - xhat * mean(w g xhat)), xhat = x * rstd; rstd is made anew from the kept qkv. Key and value gradients
// stand at the token's own row (training only). One invocation a (row, head), as in forward.
requires immediate_address_space;

const WG = 64u; //@const

//@include rope/_qk_norm_params.wgsl

//@include rope/_backward_qk_norm_bindings.wgsl

@compute @workgroup_size(WG, 1, 1)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>, @builtin(local_invocation_index) li: u32) {
  let i = (wg.y * nwg.x + wg.x) * WG + li;
//@include rope/_qk_norm_head.wgsl
//@include rope/_backward_qk_norm_begin.wgsl
  for (var c = 0u; c < half; c++) {
//@include rope/_backward_qk_norm_pair.wgsl
  }
  let r = 1.0 / sqrt(square / f32(p.head_dim) + p.eps);
  let mean = r * dot / f32(p.head_dim);
  for (var c = 0u; c < p.head_dim; c++) { dqkv[at + c] = r * (dqkv[at + c] - qkv[at + c] * r * mean); }
  if (!query) {
    let to = at + p.kv_heads * p.head_dim;
    for (var c = 0u; c < p.head_dim; c++) { dqkv[to + c] = dv[src + c]; }
  }
}
