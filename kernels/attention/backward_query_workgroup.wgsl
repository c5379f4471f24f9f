// backward_query.wgsl with one workgroup a (row, head), as forward_workgroup.wgsl.
requires immediate_address_space;

const WG = 64u; //@const a power of two

//@include attention/_params_quads.wgsl

//@include attention/_query_bindings.wgsl

var<workgroup> query: array<vec4<f32>, WG>;
var<workgroup> upstream: array<vec4<f32>, WG>;
var<workgroup> slope: array<f32, WG>;

@compute @workgroup_size(WG, 1, 1)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>, @builtin(local_invocation_index) li: u32) {
  let i = wg.y * nwg.x + wg.x;
  if (i >= p.rows * p.heads) { return; }
  let row = i / p.heads;
  let group = (i % p.heads) / (p.heads / p.kv_heads);
  let at = i * p.quads;
  if (li < p.quads) {
    query[li] = q[at + li] * p.scale;
    upstream[li] = d_o[at + li];
  }
  workgroupBarrier();
  var delta = 0.0;
  for (var d = 0u; d < p.quads; d++) { delta += dot(upstream[d], o[at + d]); }
  let row_lse = stat[2u * i];
  var own = vec4<f32>();
  let last = row + 1u;
  for (var b = kv_start[row]; b < last; b += WG) {
    let j = b + li;
    var ds = 0.0;
    if (j < last) {
      let kj = (j * p.kv_heads + group) * p.quads;
      var s = 0.0;
      var dp = 0.0;
      for (var d = 0u; d < p.quads; d++) {
        s += dot(query[d], k[kj + d]);
        dp += dot(upstream[d], v[kj + d]);
      }
      ds = exp(s - row_lse) * (dp - delta) * p.scale;
    }
    slope[li] = ds;
    workgroupBarrier();
    if (li < p.quads) {
      let count = min(WG, last - b);
      for (var t = 0u; t < count; t++) { own += k[((b + t) * p.kv_heads + group) * p.quads + li] * slope[t]; }
    }
    workgroupBarrier();
  }
  if (li < p.quads) { dq[at + li] = own; }
  if (li == 0u) { stat[2u * i + 1u] = delta; }
}
