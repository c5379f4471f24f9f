enable f16;
enable subgroups;
enable subgroup_size_control;
enable chromium_experimental_subgroup_matrix;
requires immediate_address_space;

const MODE = 0u; //@const 0 NT, 1 NN
const SGM = 2u; //@const subgroups along rows
const SGN = 2u; //@const subgroups along columns
const TM = 2u; //@const tiles of 16 rows a subgroup
const TN = 2u; //@const tiles of 16 columns a subgroup
const DEPTH = 32u; //@const a panel's inner dimension, a multiple of 16
const PARTS = 1u; //@const 1: a in 16-bit floats; 2: a and what the rounding left, for products near f32
const PA = 2u; //@const octets of a (of one part) that a thread stages: BM DEPTH / 8 / THREADS, rounded up
const PB = 2u; //@const the same of b
const HALVES = 0u; //@const 1: tiles are arrays of f16 and f32, for drivers that get loads from other arrays wrong
const AHEAD = 0u; //@const DIRECT: 0, or DEPTH / 16 to ask for b's tiles before the barriers in front of their panel
// DIRECT (0 or 1, in the file that includes this one): b's tiles come from where they are stored; only those of b2 are staged.

//@include matmul/_params.wgsl

@group(0) @binding(0) var<storage, read> a: array<vec4<u32>>; // as pack.wgsl leaves it
@group(0) @binding(2) var<storage, read> a_scale: array<f32>;

const BM = SGM * TM * 16u;
const BN = SGN * TN * 16u;
const THREADS = SGM * SGN * 32u;
// All in units of 16 bytes: eight halves or four floats. Rows are padded by one unit, which keeps matrix loads aligned and apart.
const ROW = DEPTH / 8u + 1u;
const ROW_B = select(BN / 8u + 1u, ROW, MODE == 0u);
const SIZE_A = BM * ROW;
const SIZE_B = select(DEPTH, BN, MODE == 0u) * ROW_B;
const STRIP_ROW = TN * 4u + 1u;
const STRIP = 16u * STRIP_ROW;
// A row more than is used: some drivers count a whole stride for the last row of a load or store.
const SIZE = PARTS * SIZE_A + SIZE_B + ROW_B;
const STRIPS = SGM * SGN * STRIP + STRIP_ROW;

// a's parts, then b; in the end one strip of 16 rows for each subgroup
//@for words HALVES 1
const UNIT = 1u; // elements of a unit
var<workgroup> tile: array<vec4<u32>, max(SIZE, STRIPS)>;
fn put(at: u32, octet: vec4<u32>) { tile[at] = octet; }
fn strip_at(at: u32) -> vec4<f32> { return bitcast<vec4<f32>>(tile[at]); }
//@end
//@for halves 0 HALVES
const UNIT = 8u;
const UNIT_F = 4u;
var<workgroup> tile: array<f16, SIZE * UNIT>;
var<workgroup> strips: array<f32, STRIPS * UNIT_F>;
fn put(at: u32, octet: vec4<u32>) {
//@for q 0 4
  tile[at * UNIT + $qu * 2u] = bitcast<vec2<f16>>(octet[$q]).x;
  tile[at * UNIT + $qu * 2u + 1u] = bitcast<vec2<f16>>(octet[$q]).y;
//@end
}
fn strip_at(at: u32) -> vec4<f32> {
  let x = at * UNIT_F;
  return vec4<f32>(strips[x], strips[x + 1u], strips[x + 2u], strips[x + 3u]);
}
//@end

fn fetch_a(r0: u32, panel: u32, part: u32, o: u32) -> vec4<u32> {
  if (o >= BM * DEPTH / 8u) { return vec4<u32>(); }
  let r = r0 + o / (DEPTH / 8u);
  if (r >= p.m) { return vec4<u32>(); }
  return a[((part * p.m + r) * p.a_stride + panel * DEPTH) / 8u + o % (DEPTH / 8u)];
}

fn put_a(part: u32, o: u32, octet: vec4<u32>) {
  if (o < BM * DEPTH / 8u) { put(part * SIZE_A + (o / (DEPTH / 8u)) * ROW + o % (DEPTH / 8u), octet); }
}

fn pack8(x: vec4<f32>, y: vec4<f32>) -> vec4<u32> {
  let u = clamp(x, vec4<f32>(-65504.0), vec4<f32>(65504.0));
  let v = clamp(y, vec4<f32>(-65504.0), vec4<f32>(65504.0));
  return vec4<u32>(pack2x16float(u.xy), pack2x16float(u.zw), pack2x16float(v.xy), pack2x16float(v.zw));
}

// Octet `o` of b's panel: (column, k); along k for NT, along columns for NN.
fn place_b(o: u32) -> vec2<u32> {
  if (MODE == 0u) { return vec2<u32>(o / (DEPTH / 8u), (o % (DEPTH / 8u)) * 8u); }
  return vec2<u32>((o % (BN / 8u)) * 8u, o / (BN / 8u));
}

fn staged(panel: u32) -> bool { return DIRECT == 0u || panel >= p.panels; }

fn fetch_b(c0: u32, panel: u32, o: u32) -> vec4<u32> {
  if (!staged(panel)) { return vec4<u32>(); }
  if (o >= BN * DEPTH / 8u) { return vec4<u32>(); }
  let at = place_b(o);
  let c = c0 + at.x;
  if (c >= p.n) { return vec4<u32>(); }
  if (panel >= p.panels) {
    let k = (panel - p.panels) * DEPTH + at.y;
    if (k >= p.k2) { return vec4<u32>(); }
    var y = vec4<f32>();
    if (MODE == 0u) {
      let base = ((p.col0 + c) * p.k2 + k) / 4u;
      if (k + 4u < p.k2) { y = b2[base + 1u]; }
      return pack8(b2[base], y);
    }
    let base = (k * p.n + c) / 4u;
    if (c + 4u < p.n) { y = b2[base + 1u]; }
    return pack8(b2[base], y);
  }
  let k = panel * DEPTH + at.y;
  if (k >= p.k) { return vec4<u32>(); }
  if (MODE == 0u) { return b_fetch(c, k / 8u); }
  return b_fetch(k, c / 8u);
}

fn put_b(panel: u32, o: u32, raw: vec4<u32>) {
  if (!staged(panel) || o >= BN * DEPTH / 8u) { return; }
  let at = place_b(o);
  var octet = raw;
  if (panel < p.panels) { octet = b_halves(raw); }
  if (MODE == 0u) { put(PARTS * SIZE_A + at.x * ROW_B + at.y / 8u, octet); }
  else { put(PARTS * SIZE_A + at.y * ROW_B + at.x / 8u, octet); }
}

//@for d 0 DIRECT
// Where b's tile of 16 columns from `c` on lies. Past the last column or k the last tile stands in: those columns are not stored, and a is
// zero there.
fn b_tile(panel: u32, step: u32, c: u32) -> u32 {
  let kt = min(panel * (DEPTH / 16u) + step, (p.k - 1u) / 16u);
  let ct = min(c / 16u, (p.n - 1u) / 16u);
  if (MODE == 0u) { return tile_row(ct * 16u, kt, 8u); }
  return tile_row(kt * 16u, ct, 8u);
}
//@end

@compute @workgroup_size(THREADS, 1, 1) @subgroup_size(32)
fn main(
  @builtin(workgroup_id) wg: vec3<u32>,
  @builtin(num_workgroups) grid: vec3<u32>,
  @builtin(local_invocation_index) li: u32,
  @builtin(subgroup_id) subgroup: u32,
) {
  let at = tile_of(wg, grid);
  let r0 = at.x * BM;
  let c0 = at.y * BN;
  let sm = (subgroup / SGN) * (TM * 16u);
  let sn = (subgroup % SGN) * (TN * 16u);
  let first = wg.z * p.span;
  let last = min(first + p.span, p.panels + (p.k2 + DEPTH - 1u) / DEPTH);
//@for i 0 TM
//@for j 0 TN
  var c$i_$j: subgroup_matrix_result<f32, 16, 16>;
//@end
//@end
//@for q 0 PARTS
//@for s 0 PA
  var a$q_$s = vec4<u32>();
//@end
//@end
//@for s 0 PB
  var b$s = vec4<u32>();
//@end
//@for s 0 AHEAD
//@for j 0 TN
  var ahead$s_$j: subgroup_matrix_right<f16, 16, 16>;
//@end
//@end
  for (var panel = first; panel <= last; panel++) {
    // A panel is on its way while the one before it is used.
    if (panel < last) {
//@for q 0 PARTS
//@for s 0 PA
      a$q_$s = fetch_a(r0, panel, $qu, li + $su * THREADS);
//@end
//@end
//@for s 0 PB
      b$s = fetch_b(c0, panel, li + $su * THREADS);
//@end
    }
    if (panel > first) {
      for (var k = 0u; k < DEPTH / 16u; k++) {
//@for j 0 TN
        var right$j: subgroup_matrix_right<f16, 16, 16>;
//@end
//@for d 0 DIRECT
        if (!staged(panel - 1u)) {
//@for now AHEAD 1
//@for j 0 TN
          if (MODE == 0u) {
            right$j = subgroupMatrixLoad<subgroup_matrix_right<f16, 16, 16>, col_major>(&b, b_tile(panel - 1u, k, c0 + sn + $ju * 16u), 2u);
          } else {
            right$j = subgroupMatrixLoad<subgroup_matrix_right<f16, 16, 16>, row_major>(&b, b_tile(panel - 1u, k, c0 + sn + $ju * 16u), 2u);
          }
//@end
//@end
//@for s 0 AHEAD
//@for j 0 TN
          if (k == $su) { right$j = ahead$s_$j; }
//@end
//@end
        } else
//@end
        {
//@for j 0 TN
          if (MODE == 0u) {
            right$j = subgroupMatrixLoad<subgroup_matrix_right<f16, 16, 16>, col_major>(&tile, (PARTS * SIZE_A + (sn + $ju * 16u) * ROW_B + k * 2u) * UNIT, ROW_B * UNIT);
          } else {
            right$j = subgroupMatrixLoad<subgroup_matrix_right<f16, 16, 16>, row_major>(&tile, (PARTS * SIZE_A + k * 16u * ROW_B + sn / 8u + $ju * 2u) * UNIT, ROW_B * UNIT);
          }
//@end
        }
//@for q 0 PARTS
//@for i 0 TM
        {
          let left = subgroupMatrixLoad<subgroup_matrix_left<f16, 16, 16>, row_major>(&tile, ($qu * SIZE_A + (sm + $iu * 16u) * ROW + k * 2u) * UNIT, ROW * UNIT);
//@for j 0 TN
          c$i_$j = subgroupMatrixMultiplyAccumulate(left, right$j, c$i_$j);
//@end
        }
//@end
//@end
      }
    }
//@for s 0 AHEAD
    if (panel < last && !staged(panel)) {
//@for j 0 TN
      if (MODE == 0u) {
        ahead$s_$j = subgroupMatrixLoad<subgroup_matrix_right<f16, 16, 16>, col_major>(&b, b_tile(panel, $su, c0 + sn + $ju * 16u), 2u);
      } else {
        ahead$s_$j = subgroupMatrixLoad<subgroup_matrix_right<f16, 16, 16>, row_major>(&b, b_tile(panel, $su, c0 + sn + $ju * 16u), 2u);
      }
//@end
    }
//@end
    workgroupBarrier();
    if (panel < last) {
//@for q 0 PARTS
//@for s 0 PA
      put_a($qu, li + $su * THREADS, a$q_$s);
//@end
//@end
//@for s 0 PB
      put_b(panel, li + $su * THREADS, b$s);
//@end
    }
    workgroupBarrier();
  }
  // The sums leave the matrix units through workgroup memory, 16 rows of each subgroup at a time; 32 threads finish each strip.
  let own = (li / 32u) * STRIP;
  let r1 = r0 + (li / 32u / SGN) * (TM * 16u);
  let c1 = c0 + (li / 32u % SGN) * (TN * 16u);
//@for i 0 TM
//@for j 0 TN
//@for words HALVES 1
  subgroupMatrixStore<row_major>(&tile, subgroup * STRIP + $ju * 4u, c$i_$j, STRIP_ROW);
//@end
//@for halves 0 HALVES
  subgroupMatrixStore<row_major>(&strips, (subgroup * STRIP + $ju * 4u) * UNIT_F, c$i_$j, STRIP_ROW * UNIT_F);
//@end
//@end
  workgroupBarrier();
  for (var q = li % 32u; q < 16u * TN * 4u; q += 32u) {
    let r = r1 + $iu * 16u + q / (TN * 4u);
    let c = c1 + (q % (TN * 4u)) * 4u;
    if (r < p.m && c < p.n) {
      let sum = strip_at(own + (q / (TN * 4u)) * STRIP_ROW + q % (TN * 4u));
      emit(r, c, wg.z, sum * a_scale[r] * b_column_scale(c / 4u));
    }
  }
  workgroupBarrier();
//@end
}

//@include matmul/_emit.wgsl
