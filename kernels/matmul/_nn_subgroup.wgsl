enable subgroups;
requires immediate_address_space;

const SG = 8u; //@const
const ROWS = 8u; //@const
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

@group(0) @binding(0) var<storage, read> a: array<f32>;
@group(0) @binding(2) var<storage, read> a2: array<f32>;
@group(0) @binding(3) var<storage, read> b2: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> bias: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read> residual: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read_write> out: array<vec4<f32>>;

@compute @workgroup_size(SG, 1, 1)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let n4 = p.n / 4u;
  let r0 = wg.y * ROWS;
  let c0 = wg.x * (SG * COLS) + lane;
//@for i 0 ROWS
  let row$i = min(r0 + $iu, p.m - 1u);
//@end
//@for j 0 COLS
  let col$j = min(c0 + $ju * SG, n4 - 1u);
//@end
//@for i 0 ROWS
//@for j 0 COLS
  var c$i_$j = vec4<f32>();
//@end
//@end
  {
//@for i 0 ROWS
    let ra$i = row$i * p.a_stride + p.a0 + lane;
//@end
    for (var k = 0u; k < p.k; k += SG) {
      let factor = b_scale(k + lane);
//@for i 0 ROWS
      let v$i = a[ra$i + k] * factor;
//@end
//@for q 0 SG
      {
//@for j 0 COLS
        let w$j = b_quad(b_row(k + $qu), col$j);
//@end
//@for i 0 ROWS
        {
          let s = vec4<f32>(subgroupBroadcast(v$i, $qu));
//@for j 0 COLS
          c$i_$j = fma(s, w$j, c$i_$j);
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
    for (var k = 0u; k < p.k2; k += SG) {
//@for i 0 ROWS
      let v$i = a2[ra$i + k];
//@end
//@for q 0 SG
      {
//@for j 0 COLS
        let w$j = b2[(k + $qu) * n4 + col$j];
//@end
//@for i 0 ROWS
        {
          let s = vec4<f32>(subgroupBroadcast(v$i, $qu));
//@for j 0 COLS
          c$i_$j = fma(s, w$j, c$i_$j);
//@end
        }
//@end
      }
//@end
    }
  }
//@for j 0 COLS
  if (c0 + $ju * SG < n4) {
    var add$j = vec4<f32>();
    if ((p.flags & 1u) != 0u) { add$j = bias[col$j]; }
//@for i 0 ROWS
    if (r0 + $iu < p.m) {
      let at = row$i * n4 + col$j;
      var y = c$i_$j + add$j;
      if ((p.flags & 2u) != 0u) { y += residual[at]; }
      if ((p.flags & 4u) != 0u) { y += out[at]; }
      out[at] = y;
    }
//@end
  }
//@end
}
