// backward_key_value.wgsl for packed sequences on drivers that compute on the CPU: the lanes of a subgroup are neighbouring key rows of one kv head and
// walk through the same queries, which are shared by broadcast as in forward_packed.wgsl. Sums run in a fixed order.
//@include attention/_packed_head.wgsl

@group(0) @binding(0) var<storage, read> q: array<f32>;
@group(0) @binding(1) var<storage, read> k: array<f32>;
@group(0) @binding(2) var<storage, read> v: array<f32>;
@group(0) @binding(3) var<storage, read> d_o: array<f32>;
@group(0) @binding(4) var<storage, read> stat: array<f32>; // [rows, heads, 2]: lse, delta
@group(0) @binding(5) var<storage, read> q_end: array<u32>;
@group(0) @binding(6) var<storage, read_write> dk: array<f32>;
@group(0) @binding(7) var<storage, read_write> dv: array<f32>;

@compute @workgroup_size(SG, 1, 1)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let group = wg.y;
  let shared_by = p.heads / p.kv_heads;
  let first = wg.x * SG;
  let j = min(first + lane, p.rows - 1u);
  let at = (j * p.kv_heads + group) * (SG * PARTS);
//@for c 0 PARTS
//@for e 0 SG
  let k$c_$e = k[at + $cu * SG + $eu] * p.scale;
  let v$c_$e = v[at + $cu * SG + $eu];
  var dk$c_$e = 0.0;
  var dv$c_$e = 0.0;
//@end
//@end
  let own_last = q_end[j];
  let last = q_end[min(first + SG, p.rows) - 1u];
  for (var r = first; r < last; r++) {
    for (var h = group * shared_by; h < (group + 1u) * shared_by; h++) {
      let rh = r * p.heads + h;
      let qr = rh * (SG * PARTS) + lane;
      let both = stat[2u * rh + lane % 2u];
      var s = 0.0;
      var dp = 0.0;
//@for c 0 PARTS
      let q$c = q[qr + $cu * SG];
      let g$c = d_o[qr + $cu * SG];
//@end
//@for c 0 PARTS
//@for e 0 SG
      s = fma(k$c_$e, subgroupBroadcast(q$c, $eu), s);
      dp = fma(v$c_$e, subgroupBroadcast(g$c, $eu), dp);
//@end
//@end
      let w = select(0.0, exp(s - subgroupBroadcast(both, 0u)), r >= j && r < own_last);
      let ds = w * (dp - subgroupBroadcast(both, 1u)) * p.scale;
//@for c 0 PARTS
//@for e 0 SG
      dv$c_$e = fma(subgroupBroadcast(g$c, $eu), w, dv$c_$e);
      dk$c_$e = fma(subgroupBroadcast(q$c, $eu), ds, dk$c_$e);
//@end
//@end
    }
  }
  if (first + lane < p.rows) {
//@for c 0 PARTS
//@for e 0 SG
    dk[at + $cu * SG + $eu] = dk$c_$e;
    dv[at + $cu * SG + $eu] = dv$c_$e;
//@end
//@end
  }
}
