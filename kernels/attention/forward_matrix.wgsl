// forward_flash.wgsl on matrix units: 16-bit operands, 32-bit sums. A subgroup owns 16 lines, a workgroup 16 SGS, which share the keys and values that it
// stages in blocks of 16 KT.
//
// Matrices in registers cannot be scaled by row, so there is no online softmax: a first pass over the keys finds each line's log-sum-exp, a second adds up
// P V with P = exp(S - lse), which needs no rescaling and whose weights lie in 0 … 1, the good range of 16-bit floats. Scores are in units of log 2:
// the scale and log2(e) are folded into q before it is rounded.
//
// A line's bits depend on its own sequence alone: blocks of keys are counted from the sequence's start, and each sequence in a tile goes on its own.
// kv_start and kv_end must not decrease from row to row. head_dim = 16 DK.
//@include attention/_matrix_features.wgsl

const DK = 2u; //@const
const KT = 1u; //@const
const SGS = 2u; //@const a multiple of KT
const PIECES = 2u; //@const SGS / KT

//@include attention/_params.wgsl

//@include attention/_forward_bindings.wgsl

//@include attention/_matrix_shared.wgsl
const THREADS = SGS * 32u;

var<workgroup> tile: array<vec4<u32>, BLOCK * ROW + ROW>;
var<workgroup> scores: array<vec4<u32>, OWNED * ROW_F + ROW_F>;
var<workgroup> weights: array<vec4<u32>, OWNED * ROW_H + ROW_H>;
var<workgroup> halves: array<vec2<f32>, THREADS>;
var<workgroup> line_at: array<u32, OWNED>; // where the line's head begins, in quads
var<workgroup> line_row: array<u32, OWNED>; // p.rows for lines past the end

@compute @workgroup_size(THREADS, 1, 1) @subgroup_size(32)
fn main(
  @builtin(workgroup_id) wg: vec3<u32>,
  @builtin(num_workgroups) nwg: vec3<u32>,
  @builtin(local_invocation_index) li: u32,
  @builtin(subgroup_id) subgroup: u32,
) {
//@include attention/_matrix_lines.wgsl
  if (li < OWNED) {
    let pair = min(first_pair + li, last_pair);
    line_at[li] = ((pair / shared_by) * p.heads + group * shared_by + pair % shared_by) * QUADS;
    line_row[li] = select(p.rows, pair / shared_by, first_pair + li <= last_pair);
  }
  workgroupBarrier();
//@for d 0 DK
  var q$d = subgroup_matrix_left<f16, 16, 16>();
//@end
//@for s 0 PIECES
  for (var e = li; e < BLOCK * DK * 2u; e += THREADS) {
    let at = line_at[$su * BLOCK + e / (DK * 2u)] + (e % (DK * 2u)) * 2u;
    let factor = p.scale * LOG2E;
    tile[(e / (DK * 2u)) * ROW + e % (DK * 2u)] = pack8(q[at] * factor, q[at + 1u] * factor);
  }
  workgroupBarrier();
  if (subgroup / KT == $su) {
//@for d 0 DK
    q$d = subgroupMatrixLoad<subgroup_matrix_left<f16, 16, 16>, row_major>(&tile, (subgroup % KT) * 16u * ROW + $du * 2u, ROW);
//@end
  }
  workgroupBarrier();
//@end
  // For the softmax two lanes share a line, each with half of a block.
  let line = li / 2u;
  let half = (li % 2u) * (BLOCK / 2u);
  let row = line_row[line];
//@include attention/_each_sequence.wgsl
    let last = kv_end[until - 1u];
    var limit = 0u;
    if (row >= run && row < until) { limit = kv_end[row]; }
//@for c 0 DK
    var o$c = subgroup_matrix_result<f32, 16, 16>();
//@end
    var m = -3.0e38;
    var l = 0.0;
    var lse = 0.0;
    for (var round = 0u; round < 2u; round++) {
      for (var b = first; b < last; b += BLOCK) {
        for (var e = li; e < BLOCK * DK * 2u; e += THREADS) {
          let j = b + e / (DK * 2u);
          var x = vec4<u32>();
          if (j < last) {
            let at = (j * p.kv_heads + group) * QUADS + (e % (DK * 2u)) * 2u;
            x = pack8(k[at], k[at + 1u]);
          }
          tile[(e / (DK * 2u)) * ROW + e % (DK * 2u)] = x;
        }
        workgroupBarrier();
//@for t 0 KT
        {
          var s = subgroup_matrix_result<f32, 16, 16>();
//@for d 0 DK
          s = subgroupMatrixMultiplyAccumulate(q$d, subgroupMatrixLoad<subgroup_matrix_right<f16, 16, 16>, col_major>(&tile, $tu * 16u * ROW + $du * 2u, ROW), s);
//@end
          subgroupMatrixStore<row_major>(&scores, subgroup * 16u * ROW_F + $tu * 4u, s, ROW_F);
        }
//@end
        workgroupBarrier();
        let own = line * ROW_F + half / 4u;
        let j = b + half;
        if (round == 0u) {
          var top = m;
          for (var t = 0u; t < BLOCK / 2u; t++) {
            if (j + t < limit) { top = max(top, bitcast<f32>(scores[own + t / 4u][t % 4u])); }
          }
          l *= exp2(m - top);
          for (var t = 0u; t < BLOCK / 2u; t++) {
            if (j + t < limit) { l += exp2(bitcast<f32>(scores[own + t / 4u][t % 4u]) - top); }
          }
          m = top;
          continue;
        }
        for (var t = 0u; t < BLOCK / 2u; t += 8u) {
          var x = vec4<f32>();
          var y = vec4<f32>();
          let at = vec4<u32>(j + t) + vec4<u32>(0u, 1u, 2u, 3u);
          // Past the own end the score may be anything, also one whose exponential overflows.
          x = select(vec4<f32>(), exp2(bitcast<vec4<f32>>(scores[own + t / 4u]) - lse), at < vec4<u32>(limit));
          y = select(vec4<f32>(), exp2(bitcast<vec4<f32>>(scores[own + t / 4u + 1u]) - lse), at + 4u < vec4<u32>(limit));
          weights[line * ROW_H + (half + t) / 8u] = pack8(x, y);
        }
        for (var e = li; e < BLOCK * DK * 2u; e += THREADS) {
          let row_v = b + e / (DK * 2u);
          var x = vec4<u32>();
          if (row_v < last) {
            let at = (row_v * p.kv_heads + group) * QUADS + (e % (DK * 2u)) * 2u;
            x = pack8(v[at], v[at + 1u]);
          }
          tile[(e / (DK * 2u)) * ROW + e % (DK * 2u)] = x;
        }
        workgroupBarrier();
//@for t 0 KT
        {
          let w = subgroupMatrixLoad<subgroup_matrix_left<f16, 16, 16>, row_major>(&weights, subgroup * 16u * ROW_H + $tu * 2u, ROW_H);
//@for c 0 DK
          o$c = subgroupMatrixMultiplyAccumulate(w, subgroupMatrixLoad<subgroup_matrix_right<f16, 16, 16>, row_major>(&tile, $tu * 16u * ROW + $cu * 2u, ROW), o$c);
//@end
        }
//@end
        workgroupBarrier();
      }
      if (round == 0u) {
        halves[li] = vec2<f32>(m, l);
        workgroupBarrier();
        let other = halves[li ^ 1u];
        // The lower half first in both lanes: the same bits.
        let low = select(vec2<f32>(m, l), other, half > 0u);
        let high = select(other, vec2<f32>(m, l), half > 0u);
        let top = max(m, other.x);
        let sum = fma(low.y, exp2(low.x - top), high.y * exp2(high.x - top));
        lse = select(-3.0e38, top + log2(max(sum, 1.0e-37)), sum > 0.0);
        if (half == 0u && row >= run && row < until) { stat[2u * (line_at[line] / QUADS)] = select(-3.0e38, lse * LN2, sum > 0.0); }
        workgroupBarrier();
      }
    }
//@for c 0 DK
    subgroupMatrixStore<row_major>(&scores, subgroup * 16u * ROW_F, o$c, ROW_F);
    workgroupBarrier();
    for (var e = li; e < OWNED * 4u; e += THREADS) {
      let owner = line_row[e / 4u];
      if (owner >= run && owner < until) { o[line_at[e / 4u] + $cu * 4u + e % 4u] = bitcast<vec4<f32>>(scores[(e / 4u) * ROW_F + e % 4u]); }
    }
    workgroupBarrier();
//@end
    run = until;
  }
}
