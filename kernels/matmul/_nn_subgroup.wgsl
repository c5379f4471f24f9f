enable subgroups;
requires immediate_address_space;

const SG = 8u; //@const
const GROUPS = 2u; //@const groups of SG rows
const COLS = 1u; //@const quads of columns a lane

struct Params {
  m: u32,
  n: u32,
  k: u32,
  k2: u32,
  alpha: f32,
  flags: u32, // 1 bias, 2 residual, 4 accumulate
  b_stride: u32, // numbers from one row of b to the next
  a_stride: u32, // numbers from one row of a to the next
  a0: u32, // column of a at which this part of b's rows begins
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> a: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> a2: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> b2: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> bias: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read> residual: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read_write> out: array<vec4<f32>>;

@compute @workgroup_size(SG, 1, 1)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let n4 = p.n / 4u;
  let r0 = wg.y * (SG * GROUPS);
  let c0 = wg.x * (SG * COLS) + lane;
//@for g 0 GROUPS
  let row$g = min(r0 + $gu * SG + lane, p.m - 1u);
//@end
//@for j 0 COLS
  let col$j = min(c0 + $ju * SG, n4 - 1u);
//@end
//@for g 0 GROUPS
//@for e 0 SG
//@for j 0 COLS
  var c$g_$e_$j = vec4<f32>();
//@end
//@end
//@end
  {
//@for g 0 GROUPS
    let ra$g = (row$g * p.a_stride + p.a0) / 4u;
//@end
    for (var k = 0u; k < p.k / 4u; k++) {
//@for g 0 GROUPS
      let v$g = a[ra$g + k];
//@end
//@for q 0 4
      {
        let f$q = b_scale(4u * k + $qu);
//@for j 0 COLS
        let w$j = b_quad(b_row(4u * k + $qu), col$j);
//@end
//@for g 0 GROUPS
//@for e 0 SG
        {
          let s = vec4<f32>(subgroupBroadcast(v$g[$q] * f$q, $eu));
//@for j 0 COLS
          c$g_$e_$j = fma(s, w$j, c$g_$e_$j);
//@end
        }
//@end
//@end
      }
//@end
    }
  }
//@for g 0 GROUPS
//@for e 0 SG
//@for j 0 COLS
  c$g_$e_$j *= p.alpha;
//@end
//@end
//@end
  if (p.k2 > 0u) {
  {
//@for g 0 GROUPS
    let ra$g = row$g * (p.k2 / 4u);
//@end
    for (var k = 0u; k < p.k2 / 4u; k++) {
//@for g 0 GROUPS
      let v$g = a2[ra$g + k];
//@end
//@for q 0 4
      {
//@for j 0 COLS
        let w$j = b2[(4u * k + $qu) * n4 + col$j];
//@end
//@for g 0 GROUPS
//@for e 0 SG
        {
          let s = vec4<f32>(subgroupBroadcast(v$g[$q], $eu));
//@for j 0 COLS
          c$g_$e_$j = fma(s, w$j, c$g_$e_$j);
//@end
        }
//@end
//@end
      }
//@end
    }
  }
  }
//@for j 0 COLS
  if (c0 + $ju * SG < n4) {
    var add$j = vec4<f32>();
    if ((p.flags & 1u) != 0u) { add$j = bias[col$j]; }
//@for g 0 GROUPS
//@for e 0 SG
    if (r0 + $gu * SG + $eu < p.m) {
      let at = (r0 + $gu * SG + $eu) * n4 + col$j;
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
