// forward.wgsl for packed sequences on drivers that compute on the CPU. The lanes of a subgroup are neighbouring (row, head of one kv head) pairs
// and walk through the union of their key ranges together: each lane loads a part of the key and of the value and hands it to the others by
// broadcast, since loads are what costs there. A lane takes no notice of keys outside of its own range.
//
// kv_start and kv_end must not decrease from row to row. head_dim = SG * PARTS.
//@include attention/_packed_head.wgsl

@group(0) @binding(0) var<storage, read> q: array<f32>;
@group(0) @binding(1) var<storage, read> k: array<f32>;
@group(0) @binding(2) var<storage, read> v: array<f32>;
@group(0) @binding(3) var<storage, read> kv_start: array<u32>;
@group(0) @binding(4) var<storage, read> kv_end: array<u32>;
@group(0) @binding(5) var<storage, read_write> o: array<f32>;
@group(0) @binding(6) var<storage, read_write> stat: array<f32>; // [rows, heads, 2]

@compute @workgroup_size(SG, 1, 1)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
//@include attention/_packed_lines.wgsl
//@for c 0 PARTS
//@for e 0 SG
  let q$c_$e = q[at + $cu * SG + $eu] * p.scale;
  var o$c_$e = 0.0;
//@end
//@end
  var m = -3.0e38;
  var l = 0.0;
  let own_first = kv_start[row];
  let own_last = kv_end[row];
  let last = kv_end[last_row];
  for (var j = kv_start[first_row]; j < last; j++) {
    let kj = (j * p.kv_heads + group) * (SG * PARTS) + lane;
    var s = 0.0;
//@for c 0 PARTS
    let k$c = k[kj + $cu * SG];
    let v$c = v[kj + $cu * SG];
//@end
//@for c 0 PARTS
//@for e 0 SG
    s = fma(q$c_$e, subgroupBroadcast(k$c, $eu), s);
//@end
//@end
    let own = j >= own_first && j < own_last;
    let next = select(m, max(m, s), own);
    let keep = exp(m - next);
    let w = select(0.0, exp(s - next), own);
    l = l * keep + w;
//@for c 0 PARTS
//@for e 0 SG
    o$c_$e = fma(subgroupBroadcast(v$c, $eu), w, o$c_$e * keep);
//@end
//@end
    m = next;
  }
  if (wg.x * SG + lane < pairs) {
    let inv = select(0.0, 1.0 / l, l > 0.0);
//@for c 0 PARTS
//@for e 0 SG
    o[at + $cu * SG + $eu] = o$c_$e * inv;
//@end
//@end
    stat[2u * i] = select(-3.0e38, m + log(max(l, 1.0e-37)), l > 0.0);
  }
}
