enable subgroups;
requires immediate_address_space;

const SG = 8u; //@const
const QUADS = 2u; //@const SG / 4
const ROWS = 8u; //@const
const COLS = 4u; //@const

//@include matmul/_nt_subgroup_params.wgsl

@group(0) @binding(0) var<storage, read> a: array<f32>;
@group(0) @binding(2) var<storage, read> a2: array<f32>;
@group(0) @binding(3) var<storage, read> b2: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> bias: array<f32>;
@group(0) @binding(5) var<storage, read> residual: array<f32>;
@group(0) @binding(6) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(SG, 1, 1)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let r0 = wg.y * ROWS;
  let c0 = wg.x * (SG * COLS) + lane;
//@for i 0 ROWS
  let row$i = min(r0 + $iu, p.m - 1u);
//@end
//@for j 0 COLS
  let col$j = min(c0 + $ju * SG, p.n - 1u);
//@end
//@for i 0 ROWS
//@for j 0 COLS
  var c$i_$j = 0.0;
//@end
//@end
  {
//@for i 0 ROWS
    let ra$i = row$i * p.k + lane;
//@end
//@for j 0 COLS
    let cb$j = b_row(col$j);
//@end
    for (var k = 0u; k < p.k; k += SG) {
//@for i 0 ROWS
      let v$i = a[ra$i + k];
//@end
//@for q 0 QUADS
      {
//@for j 0 COLS
        let w$j = b_quad(cb$j, k / 4u + $qu);
//@end
//@for i 0 ROWS
        {
          let s0 = subgroupBroadcast(v$i, $qu * 4u);
          let s1 = subgroupBroadcast(v$i, $qu * 4u + 1u);
          let s2 = subgroupBroadcast(v$i, $qu * 4u + 2u);
          let s3 = subgroupBroadcast(v$i, $qu * 4u + 3u);
//@for j 0 COLS
          c$i_$j = fma(s3, w$j.w, fma(s2, w$j.z, fma(s1, w$j.y, fma(s0, w$j.x, c$i_$j))));
//@end
        }
//@end
      }
//@end
    }
  }
//@for j 0 COLS
  {
    let factor = p.alpha * b_scale(col$j);
//@for i 0 ROWS
    c$i_$j *= factor;
//@end
  }
//@end
  if (p.k2 > 0u) {
//@for i 0 ROWS
    let ra$i = row$i * p.k2 + lane;
//@end
//@for j 0 COLS
    let cb$j = (p.col0 + col$j) * (p.k2 / 4u);
//@end
    for (var k = 0u; k < p.k2; k += SG) {
//@for i 0 ROWS
      let v$i = a2[ra$i + k];
//@end
//@for q 0 QUADS
      {
//@for j 0 COLS
        let w$j = b2[cb$j + k / 4u + $qu];
//@end
//@for i 0 ROWS
        {
          let s0 = subgroupBroadcast(v$i, $qu * 4u);
          let s1 = subgroupBroadcast(v$i, $qu * 4u + 1u);
          let s2 = subgroupBroadcast(v$i, $qu * 4u + 2u);
          let s3 = subgroupBroadcast(v$i, $qu * 4u + 3u);
//@for j 0 COLS
          c$i_$j = fma(s3, w$j.w, fma(s2, w$j.z, fma(s1, w$j.y, fma(s0, w$j.x, c$i_$j))));
//@end
        }
//@end
      }
//@end
    }
  }
//@for j 0 COLS
  if (c0 + $ju * SG < p.n) {
    var add$j = 0.0;
    if ((p.flags & 1u) != 0u) { add$j = bias[p.col0 + col$j]; }
//@for i 0 ROWS
    if (r0 + $iu < p.m) {
      let at = row$i * p.cols + p.col0 + col$j;
      var y = c$i_$j + add$j;
      if ((p.flags & 2u) != 0u) { y += residual[at]; }
      if ((p.flags & 4u) != 0u) { y += out[at]; }
      out[at] = y;
    }
//@end
  }
//@end
}
