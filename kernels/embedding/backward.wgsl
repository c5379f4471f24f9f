// dtable[v,:] (+)= sum of dy[order[t],:] for t in [start[v], start[v+1]): occurrences sorted by id on the host, added in order. Also the
// adjoint of a row selection, where every range has at most one entry. A workgroup takes `span` columns of one row of dtable.
requires immediate_address_space;

const WG = 64u; //@const

struct Params {
  rows: u32, // of dtable
  dim: u32,
  span: u32, // columns a workgroup
  accumulate: u32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> dy: array<f32>;
@group(0) @binding(1) var<storage, read> start: array<u32>;
@group(0) @binding(2) var<storage, read> order: array<u32>;
@group(0) @binding(3) var<storage, read_write> dtable: array<f32>;

@compute @workgroup_size(WG, 1, 1)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>, @builtin(local_invocation_index) li: u32) {
  let row = wg.z * nwg.y + wg.y;
  if (row >= p.rows) { return; }
  let last = min((wg.x + 1u) * p.span, p.dim);
  let first = start[row];
  let end = start[row + 1u];
  for (var c = wg.x * p.span + li; c < last; c += WG) {
    let i = row * p.dim + c;
    var sum = 0.0;
    if (p.accumulate != 0u) { sum = dtable[i]; }
    for (var t = first; t < end; t++) { sum += dy[order[t] * p.dim + c]; }
    dtable[i] = sum;
  }
}
