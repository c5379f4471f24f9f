// out[M,N] = alpha * a[M,K] b[N,K]^T + a2[M,K2] b2[N,K2]^T + bias[N] + residual[M,N] (+ out when accumulating)
//
// Barrier-free tile for software drivers: one subgroup computes ROWS x (COLS * SG) outputs. Each lane loads one element
// of a row of `a` and hands it to the others by broadcast, so ROWS + 8 COLS loads feed 8 ROWS COLS multiply-adds; loads are what
// costs there. K and K2 must be multiples of SG (and of 4).
enable subgroups;
requires immediate_address_space;

const SG = 8u; //@const
const QUADS = 2u; //@const SG / 4
const ROWS = 8u; //@const
const COLS = 4u; //@const

struct Params {
  m: u32,
  n: u32,
  k: u32,
  k2: u32,
  alpha: f32,
  flags: u32, // 1 bias, 2 residual, 4 accumulate
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> a: array<f32>;
@group(0) @binding(1) var<storage, read> b: array<vec4<f32>>;
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
    let cb$j = col$j * (p.k / 4u);
//@end
    for (var k = 0u; k < p.k; k += SG) {
//@for i 0 ROWS
      let v$i = a[ra$i + k];
//@end
//@for q 0 QUADS
      {
//@for j 0 COLS
        let w$j = b[cb$j + k / 4u + $qu];
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
//@for i 0 ROWS
//@for j 0 COLS
  c$i_$j *= p.alpha;
//@end
//@end
  if (p.k2 > 0u) {
//@for i 0 ROWS
    let ra$i = row$i * p.k2 + lane;
//@end
//@for j 0 COLS
    let cb$j = col$j * (p.k2 / 4u);
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
    if ((p.flags & 1u) != 0u) { add$j = bias[col$j]; }
//@for i 0 ROWS
    if (r0 + $iu < p.m) {
      let at = row$i * p.n + col$j;
      var y = c$i_$j + add$j;
      if ((p.flags & 2u) != 0u) { y += residual[at]; }
      if ((p.flags & 4u) != 0u) { y += out[at]; }
      out[at] = y;
    }
//@end
  }
//@end
}
