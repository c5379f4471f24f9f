// o[r,h,:] = sum over keys j in [kv_start[r], kv_end[r]) of softmax(scale * q[r,h].k[j,g]) v[j,g], g = h / (H / G).
// stat[r,h] = (log-sum-exp of the scores, -): the second place is for backward_query's delta.
//
// The key range of packed sequences runs from the start of the own sequence to the own row; a cache has forward_paged.wgsl. Online softmax in one pass; one invocation a (row, head). QUADS = head_dim / 4.
requires immediate_address_space;

const WG = 64u; //@const
const QUADS = 6u; //@const

//@include attention/_params.wgsl

//@include attention/_forward_bindings.wgsl

@compute @workgroup_size(WG, 1, 1)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>, @builtin(local_invocation_index) li: u32) {
  let i = (wg.y * nwg.x + wg.x) * WG + li;
  if (i >= p.rows * p.heads) { return; }
  let row = i / p.heads;
  let head = i % p.heads;
  let group = head / (p.heads / p.kv_heads);
  let at = i * QUADS;
//@for d 0 QUADS
  let q$d = q[at + $du] * p.scale;
  var o$d = vec4<f32>();
//@end
  var m = -3.0e38;
  var l = 0.0;
  let last = kv_end[row];
  for (var j = kv_start[row]; j < last; j++) {
    let kj = (j * p.kv_heads + group) * QUADS;
    var s = 0.0;
//@for d 0 QUADS
    s += dot(q$d, k[kj + $du]);
//@end
    let next = max(m, s);
    let keep = exp(m - next);
    let w = exp(s - next);
    l = l * keep + w;
//@for d 0 QUADS
    o$d = o$d * keep + v[kj + $du] * w;
//@end
    m = next;
  }
  let inv = select(0.0, 1.0 / l, l > 0.0);
//@for d 0 QUADS
  o[at + $du] = o$d * inv;
//@end
  stat[2u * i] = select(-3.0e38, m + log(max(l, 1.0e-37)), l > 0.0);
}
