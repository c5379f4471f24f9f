// backward_key_value.wgsl with one workgroup a (key row, kv head): each lane takes one (query row, head) of a block of WG, then each lane adds
// up one quad of dk and dv over the block. The order of the sum is fixed: deterministic without float atomics.
requires immediate_address_space;

const WG = 64u; //@const a power of two

//@include attention/_params_quads.wgsl

//@include attention/_key_value_bindings.wgsl

var<workgroup> key: array<vec4<f32>, WG>;
var<workgroup> value: array<vec4<f32>, WG>;
var<workgroup> weight: array<f32, WG>;
var<workgroup> slope: array<f32, WG>;

@compute @workgroup_size(WG, 1, 1)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>, @builtin(local_invocation_index) li: u32) {
  let i = wg.y * nwg.x + wg.x;
  if (i >= p.rows * p.kv_heads) { return; }
  let j = i / p.kv_heads;
  let shared_by = p.heads / p.kv_heads;
  let first_head = (i % p.kv_heads) * shared_by;
  if (li < p.quads) {
    key[li] = k[i * p.quads + li] * p.scale;
    value[li] = v[i * p.quads + li];
  }
  workgroupBarrier();
  var own_k = vec4<f32>();
  var own_v = vec4<f32>();
  let total = (max(q_end[j], j) - j) * shared_by; // pairs of a query row and one of its heads
  for (var b = 0u; b < total; b += WG) {
    var w = 0.0;
    var ds = 0.0;
    let e = b + li;
    if (e < total) {
      let rh = (j + e / shared_by) * p.heads + first_head + e % shared_by;
      var s = 0.0;
      var dp = 0.0;
      for (var d = 0u; d < p.quads; d++) {
        s += dot(q[rh * p.quads + d], key[d]);
        dp += dot(d_o[rh * p.quads + d], value[d]);
      }
      w = exp(s - stat[2u * rh]);
      ds = w * (dp - stat[2u * rh + 1u]) * p.scale;
    }
    weight[li] = w;
    slope[li] = ds;
    workgroupBarrier();
    if (li < p.quads) {
      let count = min(WG, total - b);
      for (var t = 0u; t < count; t++) {
        let rh = (j + (b + t) / shared_by) * p.heads + first_head + (b + t) % shared_by;
        own_v += d_o[rh * p.quads + li] * weight[t];
        own_k += q[rh * p.quads + li] * slope[t];
      }
    }
    workgroupBarrier();
  }
  if (li < p.quads) {
    dk[i * p.quads + li] = own_k;
    dv[i * p.quads + li] = own_v;
  }
}
