// forward_paged.wgsl with one workgroup a (row, head), in any order: for devices with fast workgroup memory, and for heads too wide for one invocation's
// registers. Keys go in blocks of WG (a whole number of pages): each lane scores one key, then each lane adds up one quad of the output over
// the block. head_dim / 4 may not exceed WG.
requires immediate_address_space;

const WG = 64u; //@const a power of two, a multiple of PAGE
const PAGE = 16u; //@const

struct Params {
  rows: u32,
  heads: u32,
  kv_heads: u32,
  max_pages: u32,
  scale: f32,
  quads: u32, // head_dim / 4, a parameter so that its loops are not unrolled: compilers of software drivers take seconds for those
}
var<immediate> p: Params;

//@include attention/_paged_bindings.wgsl
@group(0) @binding(6) var<storage, read_write> o: array<vec4<f32>>;

var<workgroup> query: array<vec4<f32>, WG>;
var<workgroup> place: array<u32, WG>;
var<workgroup> weight: array<f32, WG>;
var<workgroup> tops: array<f32, WG>;

@compute @workgroup_size(WG, 1, 1)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>, @builtin(local_invocation_index) li: u32) {
//@include attention/_workgroup_head.wgsl
  let keys = position[row] + 1u;
  let entries = slot[row] * p.max_pages;
  var own = vec4<f32>();
  var m = -3.0e38;
  var l = 0.0;
  for (var b = 0u; b < keys; b += WG) {
    let j = b + li;
    // Where this lane's key and value begin, in quads; the lanes of the sum below read it.
    var kj = 0u;
    if (j < keys) { kj = ((page_table[entries + j / PAGE] * PAGE + j % PAGE) * p.kv_heads + group) * p.quads; }
    place[li] = kj;
    workgroupBarrier();
    var s = -3.0e38;
    if (j < keys) {
      s = 0.0;
      for (var d = 0u; d < p.quads; d++) { s += dot(query[d], k[kj + d]); }
    }
//@include attention/_block_top.wgsl
    if (j < keys) { w = exp(s - next); }
    weight[li] = w;
    workgroupBarrier();
    let count = min(WG, keys - b);
    var sum = 0.0;
    var part = vec4<f32>();
    for (var t = 0u; t < count; t++) {
      sum += weight[t];
      if (li < p.quads) { part += v[place[t] + li] * weight[t]; }
    }
    own = own * keep + part;
    l = l * keep + sum;
    m = next;
    workgroupBarrier();
  }
  if (li < p.quads) { o[i * p.quads + li] = own * (1.0 / l); }
}
