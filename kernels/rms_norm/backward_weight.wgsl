// partial[b,c] = sum over the rows of block b of dy[r,c] * x[r,c] * rstd[r]; column_sum finishes. One invocation a (block, column).
requires immediate_address_space;

const WG = 64u; //@const

struct Params {
  rows: u32,
  dim: u32,
  block: u32, // rows a block
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> rstd: array<f32>;
@group(0) @binding(2) var<storage, read> dy: array<f32>;
@group(0) @binding(3) var<storage, read_write> partial: array<f32>;

@compute @workgroup_size(WG, 1, 1)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>, @builtin(local_invocation_index) li: u32) {
  let i = (wg.y * nwg.x + wg.x) * WG + li;
  let blocks = (p.rows + p.block - 1u) / p.block;
  if (i >= blocks * p.dim) { return; }
  let c = i % p.dim;
  let first = (i / p.dim) * p.block;
  let last = min(first + p.block, p.rows);
  var sum = 0.0;
  for (var r = first; r < last; r++) { sum = fma(dy[r * p.dim + c], x[r * p.dim + c] * rstd[r], sum); }
  partial[i] = sum;
}
