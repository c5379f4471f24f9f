// dv[j,g,:] = sum over the heads of group g and the queries r in [j, q_end[j]) of p do[r,h,:];  dk[j,g,:] = scale * sum ds q[r,h,:].
// Sums run in a fixed order in one invocation a (key row, kv head): deterministic without float atomics.
requires immediate_address_space;

const WG = 64u; //@const
const QUADS = 6u; //@const

//@include attention/_params.wgsl

//@include attention/_key_value_bindings.wgsl

@compute @workgroup_size(WG, 1, 1)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>, @builtin(local_invocation_index) li: u32) {
  let i = (wg.y * nwg.x + wg.x) * WG + li;
  if (i >= p.rows * p.kv_heads) { return; }
  let j = i / p.kv_heads;
  let group = i % p.kv_heads;
  let shared_by = p.heads / p.kv_heads;
  let at = i * QUADS;
//@for d 0 QUADS
  let k$d = k[at + $du] * p.scale;
  let v$d = v[at + $du];
  var dk$d = vec4<f32>();
  var dv$d = vec4<f32>();
//@end
  let last = q_end[j];
  for (var r = j; r < last; r++) {
    for (var h = group * shared_by; h < (group + 1u) * shared_by; h++) {
      let rh = r * p.heads + h;
      let qr = rh * QUADS;
      var s = 0.0;
      var dp = 0.0;
//@for d 0 QUADS
      let q$d = q[qr + $du];
      let g$d = d_o[qr + $du];
      s += dot(q$d, k$d);
      dp += dot(g$d, v$d);
//@end
      let w = exp(s - stat[2u * rh]);
      let ds = w * (dp - stat[2u * rh + 1u]) * p.scale;
//@for d 0 QUADS
      dv$d += g$d * w;
      dk$d += q$d * ds;
//@end
    }
  }
//@for d 0 QUADS
  dk[at + $du] = dk$d;
  dv[at + $du] = dv$d;
//@end
}
