enable subgroups;
requires immediate_address_space;

const SG = 8u; //@const
const GROUPS = 2u; //@const groups of SG rows
const COLS = 4u; //@const

//@include matmul/_nt_subgroup_params.wgsl

@group(0) @binding(0) var<storage, read> a: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> a2: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> b2: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> bias: array<f32>;
@group(0) @binding(5) var<storage, read> residual: array<f32>;
@group(0) @binding(6) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(SG, 1, 1)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let r0 = wg.y * (SG * GROUPS);
  let c0 = wg.x * (SG * COLS) + lane;
//@for g 0 GROUPS
  let row$g = min(r0 + $gu * SG + lane, p.m - 1u);
//@end
//@for j 0 COLS
  let col$j = min(c0 + $ju * SG, p.n - 1u);
//@end
//@for g 0 GROUPS
//@for e 0 SG
//@for j 0 COLS
  var c$g_$e_$j = 0.0;
//@end
//@end
//@end
  {
//@for g 0 GROUPS
    let ra$g = row$g * (p.k / 4u);
//@end
//@for j 0 COLS
    let cb$j = b_row(col$j);
//@end
    for (var k = 0u; k < p.k / 4u; k++) {
//@for g 0 GROUPS
      let v$g = a[ra$g + k];
//@end
//@for j 0 COLS
      let w$j = b_quad(cb$j, k);
//@end
//@for g 0 GROUPS
//@for e 0 SG
      {
        let s0 = subgroupBroadcast(v$g.x, $eu);
        let s1 = subgroupBroadcast(v$g.y, $eu);
        let s2 = subgroupBroadcast(v$g.z, $eu);
        let s3 = subgroupBroadcast(v$g.w, $eu);
//@for j 0 COLS
        c$g_$e_$j = fma(s3, w$j.w, fma(s2, w$j.z, fma(s1, w$j.y, fma(s0, w$j.x, c$g_$e_$j))));
//@end
      }
//@end
//@end
    }
  }
//@for j 0 COLS
  {
    let factor = p.alpha * b_scale(col$j);
//@for g 0 GROUPS
//@for e 0 SG
    c$g_$e_$j *= factor;
//@end
//@end
  }
//@end
  if (p.k2 > 0u) {
  {
//@for g 0 GROUPS
    let ra$g = row$g * (p.k2 / 4u);
//@end
//@for j 0 COLS
    let cb$j = (p.col0 + col$j) * (p.k2 / 4u);
//@end
    for (var k = 0u; k < p.k2 / 4u; k++) {
//@for g 0 GROUPS
      let v$g = a2[ra$g + k];
//@end
//@for j 0 COLS
      let w$j = b2[cb$j + k];
//@end
//@for g 0 GROUPS
//@for e 0 SG
      {
        let s0 = subgroupBroadcast(v$g.x, $eu);
        let s1 = subgroupBroadcast(v$g.y, $eu);
        let s2 = subgroupBroadcast(v$g.z, $eu);
        let s3 = subgroupBroadcast(v$g.w, $eu);
//@for j 0 COLS
        c$g_$e_$j = fma(s3, w$j.w, fma(s2, w$j.z, fma(s1, w$j.y, fma(s0, w$j.x, c$g_$e_$j))));
//@end
      }
//@end
//@end
    }
  }
  }
//@for j 0 COLS
  if (c0 + $ju * SG < p.n) {
    var add$j = 0.0;
    if ((p.flags & 1u) != 0u) { add$j = bias[p.col0 + col$j]; }
//@for g 0 GROUPS
//@for e 0 SG
    if (r0 + $gu * SG + $eu < p.m) {
      let at = (r0 + $gu * SG + $eu) * p.cols + p.col0 + col$j;
      var y = c$g_$e_$j + add$j;
      if ((p.flags & 2u) != 0u) { y += residual[at]; }
      if ((p.flags & 4u) != 0u) { y += out[at]; }
      out[at] = y;
    }
//@end
//@end
  }
//@end
}
