requires immediate_address_space;

const MODE = 0u; //@const 0 NT, 1 NN, 2 TN
const TX = 16u; //@const threads along columns
const TY = 16u; //@const threads along rows
const RM = 1u; //@const quads of rows a thread
const RN = 1u; //@const quads of columns a thread
const DEPTH = 16u; //@const a panel's inner dimension, a multiple of 8
const PA = 1u; //@const octets of a that a thread stages: BM DEPTH / 8 / THREADS, rounded up
const PB = 1u; //@const the same of b

//@include matmul/_params.wgsl

const BM = TY * RM * 4u;
const BN = TX * RN * 4u;
const THREADS = TX * TY;
const SA = BM / 4u + 1u; // padded so that neighbouring k fall into different banks
const SB = BN / 4u + 1u;

var<workgroup> tile_a: array<E4, DEPTH * SA>; // k-major
var<workgroup> tile_b: array<E4, DEPTH * SB>;

fn put_a(at: vec2<u32>, raw: RawA) {
  let x = a_first(raw);
  let y = a_second(raw);
  if (MODE == 2u) {
    let to = at.y * SA + at.x / 4u;
    tile_a[to] = x;
    tile_a[to + 1u] = y;
  } else {
    let to = at.y * SA + at.x / 4u;
    let lane = at.x % 4u;
    tile_a[to][lane] = x.x;
    tile_a[to + SA][lane] = x.y;
    tile_a[to + 2u * SA][lane] = x.z;
    tile_a[to + 3u * SA][lane] = x.w;
    tile_a[to + 4u * SA][lane] = y.x;
    tile_a[to + 5u * SA][lane] = y.y;
    tile_a[to + 6u * SA][lane] = y.z;
    tile_a[to + 7u * SA][lane] = y.w;
  }
}

fn put_b(at: vec2<u32>, raw: RawB) {
  let x = b_first(raw);
  let y = b_second(raw);
  let to = at.y * SB + at.x / 4u;
  if (MODE == 0u) {
    let lane = at.x % 4u;
    tile_b[to][lane] = x.x;
    tile_b[to + SB][lane] = x.y;
    tile_b[to + 2u * SB][lane] = x.z;
    tile_b[to + 3u * SB][lane] = x.w;
    tile_b[to + 4u * SB][lane] = y.x;
    tile_b[to + 5u * SB][lane] = y.y;
    tile_b[to + 6u * SB][lane] = y.z;
    tile_b[to + 7u * SB][lane] = y.w;
  } else {
    tile_b[to] = x;
    tile_b[to + 1u] = y;
  }
}

// Where octet `o` of a panel lies: (row or column of the tile, k). Octets run along k where memory does, along the tile otherwise.
fn place_a(o: u32) -> vec2<u32> {
  if (MODE == 2u) { return vec2<u32>((o % (BM / 8u)) * 8u, o / (BM / 8u)); }
  return vec2<u32>(o % BM, (o / BM) * 8u);
}
fn place_b(o: u32) -> vec2<u32> {
  if (MODE == 0u) { return vec2<u32>(o % BN, (o / BN) * 8u); }
  return vec2<u32>((o % (BN / 8u)) * 8u, o / (BN / 8u));
}

fn fetch_a(r0: u32, panel: u32, o: u32) -> RawA {
  if (o >= BM * DEPTH / 8u) { return RawA(); }
  let at = place_a(o);
  if (r0 + at.x >= p.m) { return RawA(); }
  return a_fetch(r0 + at.x, panel, at.y);
}

fn fetch_b(c0: u32, panel: u32, o: u32) -> RawB {
  if (o >= BN * DEPTH / 8u) { return RawB(); }
  let at = place_b(o);
  let c = c0 + at.x;
  if (c >= p.n) { return RawB(); }
  if (panel >= p.panels) {
    let k = (panel - p.panels) * DEPTH + at.y;
    if (k >= p.k2) { return RawB(); }
    var x = vec4<f32>();
    var y = vec4<f32>();
    if (MODE == 0u) {
      let base = ((p.col0 + c) * p.k2 + k) / 4u;
      x = b2[base];
      if (k + 4u < p.k2) { y = b2[base + 1u]; }
    } else {
      let base = (k * p.n + c) / 4u;
      x = b2[base];
      if (c + 4u < p.n) { y = b2[base + 1u]; }
    }
    return b_pack(x, y);
  }
  let k = panel * DEPTH + at.y;
  if (k >= p.k) { return RawB(); }
  if (MODE == 0u) { return b_octet(c, k, p.k); }
  return b_octet(k, c, p.n);
}

@compute @workgroup_size(TX, TY, 1)
fn main(
  @builtin(workgroup_id) wg: vec3<u32>,
  @builtin(num_workgroups) grid: vec3<u32>,
  @builtin(local_invocation_id) lid: vec3<u32>,
  @builtin(local_invocation_index) li: u32,
) {
  let tile = tile_of(wg, grid);
  let r0 = tile.x * BM;
  let c0 = tile.y * BN;
  let first = wg.z * p.span;
  let last = min(first + p.span, p.panels + (p.k2 + DEPTH - 1u) / DEPTH);
//@for i 0 RM
//@for j 0 RN
  var x$i_$j = vec4<f32>();
  var y$i_$j = vec4<f32>();
  var z$i_$j = vec4<f32>();
  var w$i_$j = vec4<f32>();
//@end
//@end
//@for s 0 PA
  var a$s = RawA();
//@end
//@for s 0 PB
  var b$s = RawB();
//@end
  for (var panel = first; panel <= last; panel++) {
    // A panel is on its way while the one before it is used.
    if (panel < last) {
//@for s 0 PA
      a$s = fetch_a(r0, panel, li + $su * THREADS);
//@end
//@for s 0 PB
      b$s = fetch_b(c0, panel, li + $su * THREADS);
//@end
    }
    if (panel > first) {
      for (var k = 0u; k < DEPTH; k++) {
//@for i 0 RM
        let va$i = vec4<f32>(tile_a[k * SA + $iu * TY + lid.y]);
//@end
//@for j 0 RN
        let vb$j = vec4<f32>(tile_b[k * SB + $ju * TX + lid.x]);
//@end
//@for i 0 RM
//@for j 0 RN
        x$i_$j = fma(vec4<f32>(va$i.x), vb$j, x$i_$j);
        y$i_$j = fma(vec4<f32>(va$i.y), vb$j, y$i_$j);
        z$i_$j = fma(vec4<f32>(va$i.z), vb$j, z$i_$j);
        w$i_$j = fma(vec4<f32>(va$i.w), vb$j, w$i_$j);
//@end
//@end
      }
    }
    workgroupBarrier();
    if (panel < last) {
//@for s 0 PA
      if (li + $su * THREADS < BM * DEPTH / 8u) { put_a(place_a(li + $su * THREADS), a$s); }
//@end
//@for s 0 PB
      if (li + $su * THREADS < BN * DEPTH / 8u) { put_b(place_b(li + $su * THREADS), b$s); }
//@end
    }
    workgroupBarrier();
  }
//@for i 0 RM
//@for j 0 RN
  for (var q = 0u; q < 4u; q++) {
    let sum = select(select(w$i_$j, z$i_$j, q == 2u), select(y$i_$j, x$i_$j, q == 0u), q < 2u);
    finish(r0 + ($iu * TY + lid.y) * 4u + q, c0 + ($ju * TX + lid.x) * 4u, wg.z, sum);
  }
//@end
//@end
}

//@include matmul/_emit.wgsl
