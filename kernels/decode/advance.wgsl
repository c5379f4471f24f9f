// After sampling: writes the token and its log-probability into the slot's history at `step`, and moves the row to the next position, cache
// row and key range. A row that has met an end token keeps writing it and stands still. One invocation a row.
requires immediate_address_space;

const WG = 64u; //@const

struct Params {
  rows: u32,
  capacity: u32, // tokens a slot's history holds
  step: u32,
  end_token: u32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read_write> token: array<u32>;
@group(0) @binding(1) var<storage, read> sampled: array<f32>; // [rows, 2]
@group(0) @binding(2) var<storage, read> slot: array<u32>;
@group(0) @binding(3) var<storage, read_write> position: array<u32>;
@group(0) @binding(4) var<storage, read_write> kv_row: array<u32>;
@group(0) @binding(5) var<storage, read_write> kv_end: array<u32>;
@group(0) @binding(6) var<storage, read_write> history: array<u32>; // [slots, capacity]
@group(0) @binding(7) var<storage, read_write> history_logp: array<f32>;

@compute @workgroup_size(WG, 1, 1)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>, @builtin(local_invocation_index) li: u32) {
  let row = (wg.y * nwg.x + wg.x) * WG + li;
  if (row >= p.rows || p.step >= p.capacity) { return; }
  let at = slot[row] * p.capacity + p.step;
  if (p.step > 0u && history[at - 1u] == p.end_token) {
    token[row] = p.end_token;
    history[at] = p.end_token;
    history_logp[at] = 0.0;
    return;
  }
  history[at] = token[row];
  history_logp[at] = sampled[2u * row];
  position[row] += 1u;
  kv_row[row] += 1u;
  kv_end[row] += 1u;
}
