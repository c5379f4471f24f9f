// dq[r,h,:] = scale * sum_j ds_j k[j,g,:],  ds_j = p_j (do.v_j - delta),  p_j = exp(scale q.k_j - lse),  delta = do.o (kept for
// backward_key_value). Probabilities are recomputed from lse. One invocation a (row, head).
requires immediate_address_space;

const WG = 64u; //@const
const QUADS = 6u; //@const

//@include attention/_params.wgsl

//@include attention/_query_bindings.wgsl

@compute @workgroup_size(WG, 1, 1)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>, @builtin(local_invocation_index) li: u32) {
  let i = (wg.y * nwg.x + wg.x) * WG + li;
  if (i >= p.rows * p.heads) { return; }
  let row = i / p.heads;
  let head = i % p.heads;
  let group = head / (p.heads / p.kv_heads);
  let at = i * QUADS;
  var dot_o = 0.0;
//@for d 0 QUADS
  let q$d = q[at + $du] * p.scale;
  let g$d = d_o[at + $du];
  dot_o += dot(g$d, o[at + $du]);
  var dq$d = vec4<f32>();
//@end
  stat[2u * i + 1u] = dot_o;
  let row_lse = stat[2u * i];
  for (var j = kv_start[row]; j <= row; j++) {
    let kj = (j * p.kv_heads + group) * QUADS;
    var s = 0.0;
    var dp = 0.0;
//@for d 0 QUADS
    let k$d = k[kj + $du];
    s += dot(q$d, k$d);
    dp += dot(g$d, v[kj + $du]);
//@end
    let ds = exp(s - row_lse) * (dp - dot_o) * p.scale;
//@for d 0 QUADS
    dq$d += k$d * ds;
//@end
  }
//@for d 0 QUADS
  dq[at + $du] = dq$d;
//@end
}
