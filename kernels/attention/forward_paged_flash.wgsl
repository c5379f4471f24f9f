// forward_paged.wgsl in tiles, as forward_flash.wgsl, for hardware. A line's keys are cut into spans of SPAN, counted from position 0; each span has a softmax of its own
// (m, l, o), and spans are merged in order. Rows of one slot that stand together with ascending positions share what is loaded.
//
// SPLIT = 1: a workgroup takes one span (z of the grid) and leaves its part for forward_paged_merge.wgsl, so that few rows with long contexts fill the device.
// SPLIT = 0: a workgroup walks through all spans and merges on the way, with the same operations: the same bits, whatever the tile, the split and the other rows.
requires immediate_address_space;

const TX = 16u; //@const a tile has 4 TY lines and TX * PER keys; TX at least 4
const TY = 8u; //@const
const PER = 2u; //@const TX * PER is the same in all launches: the softmax goes by blocks of so many keys
const OWN = 2u; //@const quads of the output a lane: head_dim / 4 / TX, rounded up
const CHUNK = 4u; //@const quads of a head staged at a time
const SPAN = 128u; //@const keys, a multiple of TX * PER
const SPLIT = 0u; //@const
const PAGE = 16u; //@const

struct Params {
  rows: u32,
  heads: u32,
  kv_heads: u32,
  max_pages: u32,
  lines: u32, // lines a workgroup, at most 4 TY: whole rows where they fit
  scale: f32,
  quads: u32, // head_dim / 4
}
var<immediate> p: Params;

//@include attention/_paged_bindings.wgsl
@group(0) @binding(6) var<storage, read_write> o: array<vec4<f32>>; // SPLIT: [spans, rows, heads, quads + 1], the last quad (m, l, 0, 0)

//@include attention/_flash_shared.wgsl
var<workgroup> tops: array<f32, 4u * LINES>;
var<workgroup> keep: array<f32, LINES>;

fn key_row(base: u32, j: u32) -> u32 { return page_table[base + j / PAGE] * PAGE + j % PAGE; }

@compute @workgroup_size(WG, 1, 1)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>, @builtin(local_invocation_index) li: u32) {
//@include attention/_flash_lanes.wgsl
  let first_pair = wg.x * p.lines;
  let last_pair = min(first_pair + p.lines, p.rows * shared_by) - 1u;
//@include attention/_flash_lines.wgsl
  var run = first_pair / shared_by;
  while (run <= last_row) {
    // Rows run … until - 1 are of one slot; the last of them sees the most.
    let own_slot = slot[run];
    let base = own_slot * p.max_pages;
    var until = run + 1u;
    while (until <= last_row && slot[until] == own_slot) { until += 1u; }
    let seen = position[until - 1u] + 1u;
    var limit = 0u;
    if (li < 4u * LINES) {
      let row = line_row[line];
      if (row >= run && row < until) { limit = position[row] + 1u; }
    }
//@for i 0 4
    var all_m$i = -3.0e38;
    var all_l$i = 0.0;
//@for c 0 OWN
    var all$i_$c = vec4<f32>();
//@end
//@end
    var span = 0u;
    var spans = (seen + SPAN - 1u) / SPAN;
    if (SPLIT == 1u) {
      span = wg.z;
      spans = min(spans, wg.z + 1u);
    }
    for (; span < spans; span++) {
      let first = span * SPAN;
      let last = min(first + SPAN, seen);
      var m = -3.0e38;
      var l = 0.0;
//@for i 0 4
//@for c 0 OWN
      var own$i_$c = vec4<f32>();
//@end
//@end
//@include attention/_flash_walk.wgsl
//@include attention/_flash_sums.wgsl
//@for i 0 4
      {
        let own_line = 4u * ty + $iu;
        let m = keep[own_line];
        let l = (tops[4u * own_line] + tops[4u * own_line + 1u]) + (tops[4u * own_line + 2u] + tops[4u * own_line + 3u]);
        if (SPLIT == 1u) {
          let row = line_row[own_line];
          if (row >= run && row < until) {
            let at = (span * p.rows * p.heads + line_at[own_line] / p.quads) * (p.quads + 1u);
//@for c 0 OWN
            if (tx + $cu * TX < p.quads) { o[at + tx + $cu * TX] = own$i_$c; }
//@end
            if (tx == 0u) { o[at + p.quads] = vec4<f32>(m, l, 0.0, 0.0); }
          }
        } else {
          // As in forward_paged_merge.wgsl. A span past the line's end changes nothing: its factor is zero and the other one is one.
          let next = max(all_m$i, m);
          let old = exp(all_m$i - next);
          let new_part = exp(m - next);
          all_l$i = fma(all_l$i, old, l * new_part);
//@for c 0 OWN
          all$i_$c = fma(all$i_$c, vec4<f32>(old), own$i_$c * new_part);
//@end
          all_m$i = next;
        }
      }
//@end
      workgroupBarrier();
    }
    if (SPLIT == 0u) {
//@for i 0 4
      {
        let own_line = 4u * ty + $iu;
        let row = line_row[own_line];
        if (row >= run && row < until) {
          let at = line_at[own_line];
          let inv = 1.0 / all_l$i;
//@for c 0 OWN
          if (tx + $cu * TX < p.quads) { o[at + tx + $cu * TX] = all$i_$c * inv; }
//@end
        }
      }
//@end
    }
    run = until;
  }
}
