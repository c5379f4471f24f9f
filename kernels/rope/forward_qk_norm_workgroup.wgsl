// forward_qk_norm.wgsl with one workgroup a (row, head), for devices with fast workgroup memory: lanes stride over the pairs
// and their sums meet in a tree of fixed shape.
requires immediate_address_space;

const WG = 64u; //@const a power of two

//@include rope/_qk_norm_params.wgsl

//@include rope/_forward_qk_norm_bindings.wgsl

var<workgroup> sums: array<f32, WG>;

@compute @workgroup_size(WG, 1, 1)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>, @builtin(local_invocation_index) li: u32) {
  let i = wg.y * nwg.x + wg.x;
//@include rope/_qk_norm_head.wgsl
  let src = (row * (turned + p.kv_heads) + head) * p.head_dim;
  var sum = 0.0;
  for (var c = li; c < p.head_dim; c += WG) {
    let x = qkv[src + c];
    sum = fma(x, x, sum);
  }
  sums[li] = sum;
  workgroupBarrier();
  for (var s = WG / 2u; s > 0u; s >>= 1u) {
    if (li < s) { sums[li] += sums[li + s]; }
    workgroupBarrier();
  }
  let r = 1.0 / sqrt(sums[0] / f32(p.head_dim) + p.eps);
  let at = position[row] * half;
  let query = head < p.heads;
  let w = select(p.head_dim, 0u, query);
  for (var c = li; c < half; c += WG) {
    let t = 2u * (at + c);
    let x0 = qkv[src + c] * r * norm[w + c];
    let x1 = qkv[src + half + c] * r * norm[w + half + c];
    let y0 = x0 * table[t] - x1 * table[t + 1u];
    let y1 = x1 * table[t] + x0 * table[t + 1u];
    if (query) {
      let to = (row * p.heads + head) * p.head_dim + c;
      q[to] = y0;
      q[to + half] = y1;
    } else {
      let to = (kv_row[row] * p.kv_heads + head - p.heads) * p.head_dim + c;
      let value = src + p.kv_heads * p.head_dim + c;
      k[to] = y0;
      k[to + half] = y1;
      v[to] = qkv[value];
      v[to + half] = qkv[value + half];
    }
  }
}
