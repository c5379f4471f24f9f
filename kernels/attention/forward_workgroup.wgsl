// forward.wgsl with one workgroup a (row, head): for devices with fast workgroup memory, and for heads too wide for one invocation's
// registers. Keys go in blocks of WG: each lane scores one key, then each lane adds up one quad of the output over the block.
// head_dim / 4 may not exceed WG.
requires immediate_address_space;

const WG = 64u; //@const a power of two

//@include attention/_params_quads.wgsl

//@include attention/_forward_bindings.wgsl

var<workgroup> query: array<vec4<f32>, WG>;
var<workgroup> weight: array<f32, WG>;
var<workgroup> tops: array<f32, WG>;

@compute @workgroup_size(WG, 1, 1)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>, @builtin(local_invocation_index) li: u32) {
//@include attention/_workgroup_head.wgsl
  workgroupBarrier();
  var own = vec4<f32>();
  var m = -3.0e38;
  var l = 0.0;
  let last = kv_end[row];
  for (var b = kv_start[row]; b < last; b += WG) {
    let j = b + li;
    var s = -3.0e38;
    if (j < last) {
      s = 0.0;
      let kj = (j * p.kv_heads + group) * p.quads;
      for (var d = 0u; d < p.quads; d++) { s += dot(query[d], k[kj + d]); }
    }
//@include attention/_block_top.wgsl
    if (j < last) { w = exp(s - next); }
    weight[li] = w;
    workgroupBarrier();
    let count = min(WG, last - b);
    var sum = 0.0;
    var part = vec4<f32>();
    for (var t = 0u; t < count; t++) {
      sum += weight[t];
      if (li < p.quads) { part += v[((b + t) * p.kv_heads + group) * p.quads + li] * weight[t]; }
    }
    own = own * keep + part;
    l = l * keep + sum;
    m = next;
    workgroupBarrier();
  }
  if (li < p.quads) { o[i * p.quads + li] = own * select(0.0, 1.0 / l, l > 0.0); }
  if (li == 0u) { stat[2u * i] = select(-3.0e38, m + log(max(l, 1.0e-37)), l > 0.0); }
}
