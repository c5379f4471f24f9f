// backward_key_value_flash.wgsl on matrix units: dv = P' dO, dk = scale * dS' Q for the keys of a tile, 16 a subgroup. stat holds lse and delta.
//
// Subgroups come in two roles of SGS each. Role 0 computes S' = k q' of its 16 keys and adds up dv, role 1 computes v dO' of the same keys and adds up dk; all lanes
// make P and dS between. Lines (query row, head of the group) go in blocks of 16 KT counted from the sequence's start, so a key's sums do not depend on the
// pack. dO is brought into the range of 16-bit floats by a power of two for each block; sums are moved from one block's scale to the next's, which is exact.
// head_dim = 16 DK.
//@include attention/_matrix_features.wgsl

const DK = 2u; //@const
const KT = 1u; //@const
const SGS = 2u; //@const a multiple of KT
const PIECES = 2u; //@const SGS / KT

//@include attention/_params.wgsl

//@include attention/_key_value_bindings.wgsl

//@include attention/_matrix_shared.wgsl
const THREADS = SGS * 64u;

var<workgroup> tile: array<vec4<u32>, 2u * BLOCK * ROW + ROW>; // q, then dO
var<workgroup> scores: array<vec4<u32>, 2u * OWNED * ROW_F + ROW_F>; // k q', then v dO'
var<workgroup> weights: array<vec4<u32>, 2u * OWNED * ROW_H + ROW_H>; // P', then dS'
var<workgroup> line_head: array<u32, BLOCK>; // row * heads + head
var<workgroup> line_row: array<u32, BLOCK>;
var<workgroup> line_lse: array<f32, BLOCK>; // in units of log 2
var<workgroup> line_delta: array<f32, BLOCK>;
var<workgroup> top: atomic<u32>;

@compute @workgroup_size(THREADS, 1, 1) @subgroup_size(32)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) li: u32, @builtin(subgroup_id) subgroup: u32) {
  let role = subgroup / SGS;
  let strip = subgroup % SGS;
  let group = wg.y;
  let shared_by = p.heads / p.kv_heads;
  let first = wg.x * OWNED;
  let end = min(first + OWNED, p.rows);
//@for d 0 DK
  var x$d = subgroup_matrix_left<f16, 16, 16>(); // role 0: k, role 1: v
//@end
//@for s 0 PIECES
  for (var e = li; e < BLOCK * DK * 2u; e += THREADS) {
    let j = first + $su * BLOCK + e / (DK * 2u);
    let factor = p.scale * LOG2E;
    var x = vec4<u32>();
    var y = vec4<u32>();
    if (j < end) {
      let at = (j * p.kv_heads + group) * QUADS + (e % (DK * 2u)) * 2u;
      x = pack8(k[at] * factor, k[at + 1u] * factor);
      y = pack8(v[at], v[at + 1u]);
    }
    let to = (e / (DK * 2u)) * ROW + e % (DK * 2u);
    tile[to] = x;
    tile[BLOCK * ROW + to] = y;
  }
//@include attention/_matrix_left.wgsl
//@end
  var run = first;
  while (run < end) {
    // Keys run … until - 1 are of one sequence: rows start … last - 1.
    let last = q_end[run];
    var until = run + 1u;
    while (until < end && q_end[until] == last) { until += 1u; }
    var start = 0u;
    var upper = run;
    while (start < upper) {
      let middle = (start + upper) / 2u;
      if (q_end[middle] < last) { start = middle + 1u; } else { upper = middle; }
    }
    let lines = (last - start) * shared_by;
    var factor = 0.0;
//@for c 0 DK
    var a$c = subgroup_matrix_result<f32, 16, 16>();
//@end
    for (var b = ((run - start) * shared_by / BLOCK) * BLOCK; b < lines; b += BLOCK) {
      if (li == 0u) { atomicStore(&top, 0u); }
      if (li < BLOCK) {
        let e = min(b + li, lines - 1u);
        let row = start + e / shared_by;
        let i = row * p.heads + group * shared_by + e % shared_by;
        line_head[li] = i;
        line_row[li] = select(0u, row + 1u, b + li < lines);
        line_lse[li] = stat[2u * i] * LOG2E;
        line_delta[li] = stat[2u * i + 1u];
      }
      workgroupBarrier();
      var most = 0.0;
      for (var e = li; e < BLOCK * DK * 2u; e += THREADS) {
        let line = e / (DK * 2u);
        var x = vec4<u32>();
        if (line_row[line] > 0u) {
          let at = line_head[line] * QUADS + (e % (DK * 2u)) * 2u;
          x = pack8(q[at], q[at + 1u]);
          let y = max(abs(d_o[at]), abs(d_o[at + 1u]));
          most = max(most, max(max(y.x, y.y), max(y.z, y.w)));
        }
        tile[line * ROW + e % (DK * 2u)] = x;
      }
      atomicMax(&top, bitcast<u32>(most));
      let bits = workgroupUniformLoad(&top);
      let next = select(scale_for(bits), select(1.0, factor, factor > 0.0), bits == 0u);
      if (next != factor && factor > 0.0) {
//@for c 0 DK
        a$c = subgroupMatrixScalarMultiply(a$c, next / factor);
//@end
      }
      factor = next;
      for (var e = li; e < BLOCK * DK * 2u; e += THREADS) {
        let line = e / (DK * 2u);
        var y = vec4<u32>();
        if (line_row[line] > 0u) {
          let at = line_head[line] * QUADS + (e % (DK * 2u)) * 2u;
          y = pack8(d_o[at] * factor, d_o[at + 1u] * factor);
        }
        tile[(BLOCK + line) * ROW + e % (DK * 2u)] = y;
      }
      workgroupBarrier();
//@include attention/_matrix_scores.wgsl
      for (var e = li; e < OWNED * KT * 2u; e += THREADS) {
        let key = e / (KT * 2u);
        let octet = e % (KT * 2u);
        let j = first + key;
        let own = j >= run && j < until;
        let at = key * ROW_F + octet * 2u;
        var w: array<vec4<f32>, 2>;
        var z: array<vec4<f32>, 2>;
//@for h 0 2
        {
          let line = octet * 8u + $hu * 4u;
          let ends = vec4<u32>(line_row[line], line_row[line + 1u], line_row[line + 2u], line_row[line + 3u]);
          let lse = vec4<f32>(line_lse[line], line_lse[line + 1u], line_lse[line + 2u], line_lse[line + 3u]);
          let delta = vec4<f32>(line_delta[line], line_delta[line + 1u], line_delta[line + 2u], line_delta[line + 3u]);
          let seen = vec4<bool>(own) & (vec4<u32>(j) < ends);
          let x = exp2(bitcast<vec4<f32>>(scores[at + $hu]) - lse);
          w[$h] = select(vec4<f32>(), x, seen);
          z[$h] = select(vec4<f32>(), x * (bitcast<vec4<f32>>(scores[OWNED * ROW_F + at + $hu]) - delta * factor), seen);
        }
//@end
        weights[key * ROW_H + octet] = pack8(w[0], w[1]);
        weights[(OWNED + key) * ROW_H + octet] = pack8(z[0], z[1]);
      }
      workgroupBarrier();
      // dv from P' and dO, dk from dS' and q.
//@for t 0 KT
      {
        let w = subgroupMatrixLoad<subgroup_matrix_left<f16, 16, 16>, row_major>(&weights, (role * OWNED + strip * 16u) * ROW_H + $tu * 2u, ROW_H);
//@for c 0 DK
        a$c = subgroupMatrixMultiplyAccumulate(w, subgroupMatrixLoad<subgroup_matrix_right<f16, 16, 16>, row_major>(&tile, ((1u - role) * BLOCK + $tu * 16u) * ROW + $cu * 2u, ROW), a$c);
//@end
      }
//@end
      workgroupBarrier();
    }
    let undo = select(0.0, 1.0 / factor, factor > 0.0);
//@for c 0 DK
    subgroupMatrixStore<row_major>(&scores, (role * OWNED + strip * 16u) * ROW_F, a$c, ROW_F);
    workgroupBarrier();
    for (var e = li; e < OWNED * 4u; e += THREADS) {
      let j = first + e / 4u;
      if (j >= run && j < until) {
        let at = (j * p.kv_heads + group) * QUADS + $cu * 4u + e % 4u;
        dv[at] = bitcast<vec4<f32>>(scores[(e / 4u) * ROW_F + e % 4u]) * undo;
        dk[at] = bitcast<vec4<f32>>(scores[(OWNED + e / 4u) * ROW_F + e % 4u]) * (undo * p.scale);
      }
    }
    workgroupBarrier();
//@end
    run = until;
  }
}
