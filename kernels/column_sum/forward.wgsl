// out[b,c] = scale * (sum over the rows of block b of x[r,c]) (+ out when accumulating). Rows are added in order, so the result
// does not depend on the device's scheduling. Long columns take two calls, blocks first.
requires immediate_address_space;

const WG = 64u; //@const

struct Params {
  rows: u32,
  cols: u32,
  block: u32, // rows a block
  scale: f32,
  accumulate: u32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(WG, 1, 1)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>, @builtin(local_invocation_index) li: u32) {
  let i = (wg.y * nwg.x + wg.x) * WG + li;
  let blocks = (p.rows + p.block - 1u) / p.block;
  if (i >= blocks * p.cols) { return; }
  let c = i % p.cols;
  let first = (i / p.cols) * p.block;
  let last = min(first + p.block, p.rows);
  var sum = 0.0;
  for (var r = first; r < last; r++) { sum += x[r * p.cols + c]; }
  sum *= p.scale;
  if (p.accumulate != 0u) { sum += out[i]; }
  out[i] = sum;
}
