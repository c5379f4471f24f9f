// forward.wgsl with one workgroup a row, for devices with fast workgroup memory: maximum and sums meet in trees of fixed shape.
requires immediate_address_space;

const WG = 256u; //@const a power of two
const WITH_REF = 0u; //@const

struct Params {
  rows: u32,
  cols: u32,
  offset: u32,
  inv_temperature: f32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> logits: array<f32>;
@group(0) @binding(1) var<storage, read> ref_logits: array<f32>;
@group(0) @binding(2) var<storage, read> row_target: array<u32>;
@group(0) @binding(3) var<storage, read_write> state: array<f32>; // [rows, 5]

var<workgroup> tops: array<f32, WG>;
var<workgroup> sums: array<vec3<f32>, WG>;

@compute @workgroup_size(WG, 1, 1)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>, @builtin(local_invocation_index) li: u32) {
  let row = wg.y * nwg.x + wg.x;
  if (row >= p.rows) { return; }
  let at = row * p.cols;
  let st = row * 5u;
  var own_top = -3.0e38;
  for (var c = li; c < p.cols; c += WG) { own_top = max(own_top, logits[at + c] * p.inv_temperature); }
  tops[li] = own_top;
  workgroupBarrier();
  for (var s = WG / 2u; s > 0u; s >>= 1u) {
    if (li < s) { tops[li] = max(tops[li], tops[li + s]); }
    workgroupBarrier();
  }
  var top = -3.0e38;
  if (p.offset > 0u) { top = state[st]; }
  let next = max(top, tops[0]);
  var own = vec3<f32>(); // sum e, sum x e, sum (x - ref) e
  for (var c = li; c < p.cols; c += WG) {
    let x = logits[at + c] * p.inv_temperature;
    let e = exp(x - next);
    own.x += e;
    own.y = fma(x, e, own.y);
    if (WITH_REF == 1u) { own.z = fma(x - ref_logits[at + c] * p.inv_temperature, e, own.z); }
  }
  sums[li] = own;
  workgroupBarrier();
  for (var s = WG / 2u; s > 0u; s >>= 1u) {
    if (li < s) { sums[li] += sums[li + s]; }
    workgroupBarrier();
  }
  if (li == 0u) {
    var total = sums[0];
    var picked = 0.0;
    if (p.offset > 0u) {
      total += vec3<f32>(state[st + 1u], state[st + 2u], state[st + 4u]) * exp(top - next);
      picked = state[st + 3u];
    }
    let target_column = row_target[row];
    if (target_column >= p.offset && target_column < p.offset + p.cols) {
      picked = logits[at + target_column - p.offset] * p.inv_temperature;
    }
    state[st] = next;
    state[st + 1u] = total.x;
    state[st + 2u] = total.y;
    state[st + 3u] = picked;
    state[st + 4u] = total.z;
  }
}
