// backward_query.wgsl for packed sequences on drivers that compute on the CPU, with keys and values shared by broadcast as in forward_packed.wgsl.
//@include attention/_packed_head.wgsl

@group(0) @binding(0) var<storage, read> q: array<f32>;
@group(0) @binding(1) var<storage, read> k: array<f32>;
@group(0) @binding(2) var<storage, read> v: array<f32>;
@group(0) @binding(3) var<storage, read> o: array<f32>;
@group(0) @binding(4) var<storage, read> d_o: array<f32>;
@group(0) @binding(5) var<storage, read> kv_start: array<u32>;
@group(0) @binding(6) var<storage, read_write> stat: array<f32>; // [rows, heads, 2]: lse in, delta out
@group(0) @binding(7) var<storage, read_write> dq: array<f32>;

@compute @workgroup_size(SG, 1, 1)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
//@include attention/_packed_lines.wgsl
  var delta = 0.0;
//@for c 0 PARTS
//@for e 0 SG
  let q$c_$e = q[at + $cu * SG + $eu] * p.scale;
  let g$c_$e = d_o[at + $cu * SG + $eu];
  delta = fma(g$c_$e, o[at + $cu * SG + $eu], delta);
  var dq$c_$e = 0.0;
//@end
//@end
  let row_lse = stat[2u * i];
  let own_first = kv_start[row];
  for (var j = kv_start[first_row]; j <= last_row; j++) {
    let kj = (j * p.kv_heads + group) * (SG * PARTS) + lane;
    var s = 0.0;
    var dp = 0.0;
//@for c 0 PARTS
    let k$c = k[kj + $cu * SG];
    let v$c = v[kj + $cu * SG];
//@end
//@for c 0 PARTS
//@for e 0 SG
    s = fma(q$c_$e, subgroupBroadcast(k$c, $eu), s);
    dp = fma(g$c_$e, subgroupBroadcast(v$c, $eu), dp);
//@end
//@end
    // Outside of the own range the score may be anything, also one whose exponential overflows.
    let ds = select(0.0, exp(s - row_lse) * (dp - delta) * p.scale, j >= own_first && j <= row);
//@for c 0 PARTS
//@for e 0 SG
    dq$c_$e = fma(subgroupBroadcast(k$c, $eu), ds, dq$c_$e);
//@end
//@end
  }
  if (wg.x * SG + lane < pairs) {
    stat[2u * i + 1u] = delta;
//@for c 0 PARTS
//@for e 0 SG
    dq[at + $cu * SG + $eu] = dq$c_$e;
//@end
//@end
  }
}
