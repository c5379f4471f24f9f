// forward.wgsl in tiles, for hardware without matrix units and as their f32 rung: a workgroup takes a tile of lines (row, head of one kv head) through its keys
// in blocks, with keys and queries staged in workgroup memory a chunk of the head at a time (flash attention with an online softmax).
//
// Rows of a tile may be of several sequences: each walks through its own keys, from its own start, and only its own rows are written. So a row's bits do not
// depend on where it stands in the pack, and what is not finite in one sequence stays there. kv_start and kv_end must not decrease from row to row.
requires immediate_address_space;

const TX = 16u; //@const a tile has 4 TY lines and TX * PER keys; TX at least 4
const TY = 8u; //@const
const PER = 2u; //@const
const OWN = 2u; //@const quads of the output a lane: head_dim / 4 / TX, rounded up
const CHUNK = 8u; //@const quads of a head staged at a time

//@include attention/_params_quads.wgsl

//@include attention/_forward_bindings.wgsl

//@include attention/_flash_shared.wgsl
var<workgroup> tops: array<f32, 4u * LINES>;
var<workgroup> keep: array<f32, LINES>;

fn key_row(base: u32, j: u32) -> u32 { return base + j; }

@compute @workgroup_size(WG, 1, 1)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>, @builtin(local_invocation_index) li: u32) {
//@include attention/_flash_lanes.wgsl
  let first_pair = (nwg.x - 1u - wg.x) * LINES; // the longest key ranges first
  let last_pair = min(first_pair + LINES, p.rows * shared_by) - 1u;
//@include attention/_flash_lines.wgsl
  let base = 0u;
//@include attention/_each_sequence.wgsl
    let last = kv_end[until - 1u];
    var limit = 0u;
    if (li < 4u * LINES) {
      let row = line_row[line];
      if (row >= run && row < until) { limit = kv_end[row]; }
    }
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
      let row = line_row[own_line];
      if (row >= run && row < until) {
        let at = line_at[own_line];
        let sum = (tops[4u * own_line] + tops[4u * own_line + 1u]) + (tops[4u * own_line + 2u] + tops[4u * own_line + 3u]);
        let inv = select(0.0, 1.0 / sum, sum > 0.0);
//@for c 0 OWN
        if (tx + $cu * TX < p.quads) { o[at + tx + $cu * TX] = own$i_$c * inv; }
//@end
        if (tx == 0u) { stat[2u * (at / p.quads)] = select(-3.0e38, keep[own_line] + log(max(sum, 1.0e-37)), sum > 0.0); }
      }
    }
//@end
    workgroupBarrier();
    run = until;
  }
}
