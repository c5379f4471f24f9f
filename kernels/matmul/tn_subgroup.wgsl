// out[M,N] = alpha * a[K,M]^T b[K,N] (+ out when accumulating): the weight gradient, contracting over tokens.
//
// Barrier-free tile for software drivers: per token one load of SG rows of `a`, shared by broadcast, and COLS quads of `b` a
// lane. N must be a multiple of 4; M and K are free.
enable subgroups;
requires immediate_address_space;

const SG = 8u; //@const
const CHUNKS = 1u; //@const rows of the tile / SG
const COLS = 1u; //@const quads of columns a lane

struct Params {
  m: u32,
  n: u32,
  k: u32,
  alpha: f32,
  flags: u32, // 4 accumulate
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> a: array<f32>;
@group(0) @binding(1) var<storage, read> b: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> out: array<vec4<f32>>;

@compute @workgroup_size(SG, 1, 1)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let n4 = p.n / 4u;
  let r0 = wg.y * (SG * CHUNKS);
  let c0 = wg.x * (SG * COLS) + lane;
//@for c 0 CHUNKS
  let ra$c = min(r0 + $cu * SG + lane, p.m - 1u);
//@end
//@for j 0 COLS
  let col$j = min(c0 + $ju * SG, n4 - 1u);
//@end
//@for c 0 CHUNKS
//@for i 0 SG
//@for j 0 COLS
  var c$c_$i_$j = vec4<f32>();
//@end
//@end
//@end
  for (var k = 0u; k < p.k; k++) {
//@for c 0 CHUNKS
    let v$c = a[k * p.m + ra$c];
//@end
//@for j 0 COLS
    let w$j = b[k * n4 + col$j];
//@end
//@for c 0 CHUNKS
//@for i 0 SG
    {
      let s = vec4<f32>(subgroupBroadcast(v$c, $iu));
//@for j 0 COLS
      c$c_$i_$j = fma(s, w$j, c$c_$i_$j);
//@end
    }
//@end
//@end
  }
//@for j 0 COLS
  if (c0 + $ju * SG < n4) {
//@for c 0 CHUNKS
//@for i 0 SG
    if (r0 + $cu * SG + $iu < p.m) {
      let at = (r0 + $cu * SG + $iu) * n4 + col$j;
      var y = c$c_$i_$j * p.alpha;
      if ((p.flags & 4u) != 0u) { y += out[at]; }
      out[at] = y;
    }
//@end
//@end
  }
//@end
}
