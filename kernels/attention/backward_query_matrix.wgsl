// backward_query_flash.wgsl on matrix units, as forward_matrix.wgsl: dq = scale * dS K, dS = exp(S - lse) * (dO V' - delta). stat holds lse and delta.
//
// Subgroups come in two roles of SGS each. Role 0 computes S = q k' of its 16 lines, role 1 dO v' of the same lines; all lanes make dS of both; then each role adds
// up its half of the columns of dq. So a subgroup holds one operand and half of the sums in registers. dO is brought into the range of 16-bit floats by
// a power of two for each line, which the end takes back. head_dim = 16 DK, DK even.
//@include attention/_matrix_features.wgsl

const DK = 2u; //@const
const HALF = 1u; //@const DK / 2
const KT = 1u; //@const
const SGS = 2u; //@const a multiple of KT
const PIECES = 2u; //@const SGS / KT

//@include attention/_params.wgsl

//@include attention/_query_tile_bindings.wgsl

//@include attention/_matrix_shared.wgsl
const THREADS = SGS * 64u;

var<workgroup> tile: array<vec4<u32>, 2u * BLOCK * ROW + ROW>; // keys, then values
var<workgroup> scores: array<vec4<u32>, 2u * OWNED * ROW_F + ROW_F>; // q k', then dO v'
var<workgroup> slopes: array<vec4<u32>, OWNED * ROW_H + ROW_H>;
var<workgroup> line_at: array<u32, OWNED>; // where the line's head begins, in quads
var<workgroup> line_row: array<u32, OWNED>; // p.rows for lines past the end
var<workgroup> line_lse: array<f32, OWNED>; // in units of log 2
var<workgroup> line_delta: array<f32, OWNED>; // scaled as the line's dO
var<workgroup> line_scale: array<f32, OWNED>;

@compute @workgroup_size(THREADS, 1, 1) @subgroup_size(32)
fn main(
  @builtin(workgroup_id) wg: vec3<u32>,
  @builtin(num_workgroups) nwg: vec3<u32>,
  @builtin(local_invocation_index) li: u32,
  @builtin(subgroup_id) subgroup: u32,
) {
  let role = subgroup / SGS;
  let strip = subgroup % SGS;
//@include attention/_matrix_lines.wgsl
  if (li < OWNED) {
    let pair = min(first_pair + li, last_pair);
    let at = ((pair / shared_by) * p.heads + group * shared_by + pair % shared_by) * QUADS;
    line_at[li] = at;
    line_row[li] = select(p.rows, pair / shared_by, first_pair + li <= last_pair);
    var top = 0.0;
    for (var d = 0u; d < QUADS; d++) {
      let x = abs(d_o[at + d]);
      top = max(top, max(max(x.x, x.y), max(x.z, x.w)));
    }
    let factor = scale_for(bitcast<u32>(top));
    line_scale[li] = factor;
    line_lse[li] = stat[2u * (at / QUADS)] * LOG2E;
    line_delta[li] = stat[2u * (at / QUADS) + 1u] * factor;
  }
  workgroupBarrier();
//@for d 0 DK
  var x$d = subgroup_matrix_left<f16, 16, 16>(); // role 0: q, role 1: dO
//@end
//@for s 0 PIECES
  for (var e = li; e < BLOCK * DK * 2u; e += THREADS) {
    let own = $su * BLOCK + e / (DK * 2u);
    let at = line_at[own] + (e % (DK * 2u)) * 2u;
    let to = (e / (DK * 2u)) * ROW + e % (DK * 2u);
    let factor = p.scale * LOG2E;
    tile[to] = pack8(q[at] * factor, q[at + 1u] * factor);
    tile[BLOCK * ROW + to] = pack8(d_o[at] * line_scale[own], d_o[at + 1u] * line_scale[own]);
  }
//@include attention/_matrix_left.wgsl
//@end
//@include attention/_each_sequence.wgsl
    let last = until;
//@for c 0 HALF
    var a$c = subgroup_matrix_result<f32, 16, 16>();
//@end
    for (var b = first; b < last; b += BLOCK) {
      for (var e = li; e < BLOCK * DK * 2u; e += THREADS) {
        let j = b + e / (DK * 2u);
        var x = vec4<u32>();
        var y = vec4<u32>();
        if (j < last) {
          let at = (j * p.kv_heads + group) * QUADS + (e % (DK * 2u)) * 2u;
          x = pack8(k[at], k[at + 1u]);
          y = pack8(v[at], v[at + 1u]);
        }
        let to = (e / (DK * 2u)) * ROW + e % (DK * 2u);
        tile[to] = x;
        tile[BLOCK * ROW + to] = y;
      }
      workgroupBarrier();
//@include attention/_matrix_scores.wgsl
      for (var e = li; e < OWNED * KT * 2u; e += THREADS) {
        let line = e / (KT * 2u);
        let octet = e % (KT * 2u);
        let row = line_row[line];
        let limit = vec4<u32>(select(0u, row + 1u, row >= run && row < until));
        let lse = line_lse[line];
        let delta = line_delta[line];
        let at = line * ROW_F + octet * 2u;
        let j = vec4<u32>(b + octet * 8u) + vec4<u32>(0u, 1u, 2u, 3u);
        let x = exp2(bitcast<vec4<f32>>(scores[at]) - lse) * (bitcast<vec4<f32>>(scores[OWNED * ROW_F + at]) - delta);
        let y = exp2(bitcast<vec4<f32>>(scores[at + 1u]) - lse) * (bitcast<vec4<f32>>(scores[OWNED * ROW_F + at + 1u]) - delta);
        slopes[line * ROW_H + octet] = pack8(select(vec4<f32>(), x, j < limit), select(vec4<f32>(), y, j + 4u < limit));
      }
      workgroupBarrier();
//@for t 0 KT
      {
        let w = subgroupMatrixLoad<subgroup_matrix_left<f16, 16, 16>, row_major>(&slopes, strip * 16u * ROW_H + $tu * 2u, ROW_H);
//@for c 0 HALF
        a$c = subgroupMatrixMultiplyAccumulate(w, subgroupMatrixLoad<subgroup_matrix_right<f16, 16, 16>, row_major>(&tile, $tu * 16u * ROW + (role * HALF + $cu) * 2u, ROW), a$c);
//@end
      }
//@end
      workgroupBarrier();
    }
//@for c 0 HALF
    subgroupMatrixStore<row_major>(&scores, (role * OWNED + strip * 16u) * ROW_F, a$c, ROW_F);
    workgroupBarrier();
    for (var e = li; e < 2u * OWNED * 4u; e += THREADS) {
      let line = (e / 4u) % OWNED;
      let row = line_row[line];
      if (row >= run && row < until) {
        let column = ((e / (4u * OWNED)) * HALF + $cu) * 4u + e % 4u;
        dq[line_at[line] + column] = bitcast<vec4<f32>>(scores[(e / 4u) * ROW_F + e % 4u]) * (p.scale / line_scale[line]);
      }
    }
    workgroupBarrier();
//@end
    run = until;
  }
}
