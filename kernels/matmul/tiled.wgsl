// out[M,N] = alpha * A B + A2 B2 + bias + residual (+ out when accumulating), any shape, any of the three layouts:
//   mode 0 (NT) a[M,K] b[N,K]   mode 1 (NN) a[M,K] b[K,N]   mode 2 (TN) a[K,M] b[K,N]; a2, b2 alike with K2.
//
// Shared-memory tile 64 x 64 by 16, 4 x 4 outputs a thread: the general variant, and the one for hardware devices.
requires immediate_address_space;

struct Params {
  m: u32,
  n: u32,
  k: u32,
  k2: u32,
  alpha: f32,
  flags: u32, // 1 bias, 2 residual, 4 accumulate
  mode: u32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> a: array<f32>;
@group(0) @binding(1) var<storage, read> b: array<f32>;
@group(0) @binding(2) var<storage, read> a2: array<f32>;
@group(0) @binding(3) var<storage, read> b2: array<f32>;
@group(0) @binding(4) var<storage, read> bias: array<f32>;
@group(0) @binding(5) var<storage, read> residual: array<f32>;
@group(0) @binding(6) var<storage, read_write> out: array<f32>;

const TILE = 64u;
const DEPTH = 16u;
const STRIDE = 68u; // padded so that neighbouring rows fall into different banks

var<workgroup> tile_a: array<f32, 1088>; // [DEPTH][STRIDE], k-major
var<workgroup> tile_b: array<f32, 1088>;

fn index_a(r: u32, k: u32, depth: u32) -> u32 {
  return select(r * depth + k, k * p.m + r, p.mode == 2u);
}
fn index_b(c: u32, k: u32, depth: u32) -> u32 {
  return select(k * p.n + c, c * depth + k, p.mode == 0u);
}

@compute @workgroup_size(16, 16, 1)
fn main(
  @builtin(workgroup_id) wg: vec3<u32>,
  @builtin(local_invocation_id) lid: vec3<u32>,
  @builtin(local_invocation_index) li: u32,
) {
  let r0 = wg.y * TILE;
  let c0 = wg.x * TILE;
//@for i 0 4
  var acc$i = vec4<f32>();
//@end
  for (var part = 0u; part < 2u; part++) {
    let depth = select(p.k2, p.k, part == 0u);
    for (var k0 = 0u; k0 < depth; k0 += DEPTH) {
      for (var t = li; t < TILE * DEPTH; t += 256u) {
        // Neighbouring threads read neighbouring addresses: along k where k is contiguous, along rows otherwise.
        let ak = select(t % DEPTH, t / TILE, p.mode == 2u);
        let ar = select(t / DEPTH, t % TILE, p.mode == 2u);
        var va = 0.0;
        if (r0 + ar < p.m && k0 + ak < depth) {
          let at = index_a(r0 + ar, k0 + ak, depth);
          if (part == 0u) { va = a[at]; } else { va = a2[at]; }
        }
        tile_a[ak * STRIDE + ar] = va;
        let bk = select(t / TILE, t % DEPTH, p.mode == 0u);
        let bc = select(t % TILE, t / DEPTH, p.mode == 0u);
        var vb = 0.0;
        if (c0 + bc < p.n && k0 + bk < depth) {
          let at = index_b(c0 + bc, k0 + bk, depth);
          if (part == 0u) { vb = b[at]; } else { vb = b2[at]; }
        }
        tile_b[bk * STRIDE + bc] = vb;
      }
      workgroupBarrier();
      for (var k = 0u; k < DEPTH; k++) {
        let ia = k * STRIDE + lid.y * 4u;
        let ib = k * STRIDE + lid.x * 4u;
        let vb = vec4<f32>(tile_b[ib], tile_b[ib + 1u], tile_b[ib + 2u], tile_b[ib + 3u]);
//@for i 0 4
        acc$i = fma(vec4<f32>(tile_a[ia + $iu]), vb, acc$i);
//@end
      }
      workgroupBarrier();
    }
    if (part == 0u) {
//@for i 0 4
      acc$i *= p.alpha;
//@end
    }
  }
//@for i 0 4
  {
    let r = r0 + lid.y * 4u + $iu;
    if (r < p.m) {
      for (var j = 0u; j < 4u; j++) {
        let c = c0 + lid.x * 4u + j;
        if (c < p.n) {
          let at = r * p.n + c;
          var y = acc$i[j];
          if ((p.flags & 1u) != 0u) { y += bias[c]; }
          if ((p.flags & 2u) != 0u) { y += residual[at]; }
          if ((p.flags & 4u) != 0u) { y += out[at]; }
          out[at] = y;
        }
      }
    }
  }
//@end
}
