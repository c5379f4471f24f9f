// forward.wgsl for models that norm every query and key head before the rotation (Qwen3): x * rstd * w over the head's D
// elements, rstd = 1 / sqrt(mean(x^2) + eps). norm [2, D] holds the weight of q heads, then that of k heads.
// One invocation a (row, head): heads 0 … H-1 are queries, H … H+G-1 are keys and carry the value head of the same group.
requires immediate_address_space;

const WG = 64u; //@const

//@include rope/_qk_norm_params.wgsl

//@include rope/_forward_qk_norm_bindings.wgsl

@compute @workgroup_size(WG, 1, 1)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>, @builtin(local_invocation_index) li: u32) {
  let i = (wg.y * nwg.x + wg.x) * WG + li;
//@include rope/_qk_norm_head.wgsl
  let src = (row * (turned + p.kv_heads) + head) * p.head_dim;
  var sum = 0.0;
  for (var c = 0u; c < p.head_dim; c++) {
    let x = qkv[src + c];
    sum = fma(x, x, sum);
  }
  let r = 1.0 / sqrt(sum / f32(p.head_dim) + p.eps);
  var t = position[row] * p.head_dim;
  if (head < p.heads) {
    let to = (row * p.heads + head) * p.head_dim;
    for (var c = 0u; c < half; c++) {
      let x0 = qkv[src + c] * r * norm[c];
      let x1 = qkv[src + half + c] * r * norm[half + c];
      q[to + c] = x0 * table[t] - x1 * table[t + 1u];
      q[to + half + c] = x1 * table[t] + x0 * table[t + 1u];
      t += 2u;
    }
  } else {
    let to = (kv_row[row] * p.kv_heads + head - p.heads) * p.head_dim;
    let values = src + p.kv_heads * p.head_dim;
    let w = p.head_dim;
    for (var c = 0u; c < half; c++) {
      let x0 = qkv[src + c] * r * norm[w + c];
      let x1 = qkv[src + half + c] * r * norm[w + half + c];
      k[to + c] = x0 * table[t] - x1 * table[t + 1u];
      k[to + half + c] = x1 * table[t] + x0 * table[t + 1u];
      v[to + c] = qkv[values + c];
      v[to + half + c] = qkv[values + half + c];
      t += 2u;
    }
  }
}
