requires immediate_address_space;

struct Params {
  m: u32,
  n: u32,
  k: u32,
  k2: u32,
  alpha: f32,
  flags: u32, // 1 bias, 2 residual, 4 accumulate
  mode: u32,
  b_stride: u32, // numbers from one row of b to the next
  col0: u32, // NT: column of out, bias, residual and row of b2 at which this part of b begins
  cols: u32, // columns of out in all
  a_stride: u32, // NT, NN: numbers from one row of a to the next
  a0: u32, // NN: column of a at which this part of b's rows begins
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> a: array<f32>;
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

fn a_at(r: u32, k: u32) -> f32 {
  return a[select(r * p.a_stride + p.a0 + k, k * p.m + r, p.mode == 2u)];
}
fn a2_at(r: u32, k: u32) -> f32 {
  return a2[select(r * p.k2 + k, k * p.m + r, p.mode == 2u)];
}
fn b2_at(c: u32, k: u32) -> f32 {
  return b2[select(k * p.n + c, (p.col0 + c) * p.k2 + k, p.mode == 0u)];
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
          if (part == 0u) { va = a_at(r0 + ar, k0 + ak); } else { va = a2_at(r0 + ar, k0 + ak); }
        }
        tile_a[ak * STRIDE + ar] = va;
        let bk = select(t / TILE, t % DEPTH, p.mode == 0u);
        let bc = select(t % TILE, t / DEPTH, p.mode == 0u);
        var vb = 0.0;
        if (c0 + bc < p.n && k0 + bk < depth) {
          if (part == 1u) { vb = b2_at(c0 + bc, k0 + bk); }
          else if (p.mode == 0u) { vb = b_at(c0 + bc, k0 + bk); }
          else { vb = b_at(k0 + bk, c0 + bc); }
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
          let at = r * p.cols + p.col0 + c;
          var y = acc$i[j];
          if ((p.flags & 1u) != 0u) { y += bias[p.col0 + c]; }
          if ((p.flags & 2u) != 0u) { y += residual[at]; }
          if ((p.flags & 4u) != 0u) { y += out[at]; }
          out[at] = y;
        }
      }
    }
  }
//@end
}
