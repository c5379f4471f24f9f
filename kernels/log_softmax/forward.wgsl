// One vocabulary chunk of the fused log-softmax + gather + entropy (+ KL to a reference): logits[r, 0..cols) are columns offset.. of the
// vocabulary, times 1/temperature. Online over chunks, state[r] = (max, sum e^(x-max), sum x e^(x-max), x[target], sum (x - ref) e^(x-max)), so that
// [rows, vocabulary] never stands in memory whole. One invocation a row.
requires immediate_address_space;

const WG = 64u; //@const
const WITH_REF = 0u; //@const
const BLOCK = 8u; //@const

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

@compute @workgroup_size(WG, 1, 1)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>, @builtin(local_invocation_index) li: u32) {
  let row = (wg.y * nwg.x + wg.x) * WG + li;
  if (row >= p.rows) { return; }
  let at = row * p.cols;
  let st = row * 5u;
  var top = -3.0e38;
  var s = 0.0;
  var t = 0.0;
  var u = 0.0;
  var picked = 0.0;
  if (p.offset > 0u) {
    top = state[st];
    s = state[st + 1u];
    t = state[st + 2u];
    picked = state[st + 3u];
    u = state[st + 4u];
  }
  var c = 0u;
  // Blocks of columns that stay in registers: every logit is loaded once.
  for (; c + BLOCK <= p.cols; c += BLOCK) {
    var next = top;
//@for b 0 BLOCK
    let x$b = logits[at + c + $bu] * p.inv_temperature;
    next = max(next, x$b);
//@end
    let keep = exp(top - next);
    s *= keep;
    t *= keep;
    u *= keep;
//@for b 0 BLOCK
    let e$b = exp(x$b - next);
    s += e$b;
    t = fma(x$b, e$b, t);
    if (WITH_REF == 1u) { u = fma(x$b - ref_logits[at + c + $bu] * p.inv_temperature, e$b, u); }
//@end
    top = next;
  }
  for (; c < p.cols; c++) {
    let x = logits[at + c] * p.inv_temperature;
    let next = max(top, x);
    let keep = exp(top - next);
    let e = exp(x - next);
    s = s * keep + e;
    t = fma(x, e, t * keep);
    u *= keep;
    if (WITH_REF == 1u) { u = fma(x - ref_logits[at + c] * p.inv_temperature, e, u); }
    top = next;
  }
  let target_column = row_target[row];
  if (target_column >= p.offset && target_column < p.offset + p.cols) {
    picked = logits[at + target_column - p.offset] * p.inv_temperature;
  }
  state[st] = top;
  state[st + 1u] = s;
  state[st + 2u] = t;
  state[st + 3u] = picked;
  state[st + 4u] = u;
}
