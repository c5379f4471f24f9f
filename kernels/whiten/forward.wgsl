// y = (x - mean) / sqrt(var + 1e-8) over the n tokens whose mask is not 0 (two passes, Bessel-corrected variance, as in TRL); masked tokens
// get 0. With fewer than two tokens y = 0. One workgroup; partial sums are added in lane order.
requires immediate_address_space;

struct Params {
  n: u32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> mask: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

var<workgroup> sums: array<f32, 64>;
var<workgroup> counts: array<f32, 64>;

@compute @workgroup_size(64, 1, 1)
fn main(@builtin(local_invocation_index) li: u32) {
  var sum = 0.0;
  var count = 0.0;
  for (var i = li; i < p.n; i += 64u) {
    if (mask[i] != 0u) {
      sum += x[i];
      count += 1.0;
    }
  }
  sums[li] = sum;
  counts[li] = count;
  workgroupBarrier();
  var total = 0.0;
  var n = 0.0;
  for (var l = 0u; l < 64u; l++) {
    total += sums[l];
    n += counts[l];
  }
  let mean = total / max(n, 1.0);
  workgroupBarrier();
  var square = 0.0;
  for (var i = li; i < p.n; i += 64u) {
    if (mask[i] != 0u) {
      let d = x[i] - mean;
      square = fma(d, d, square);
    }
  }
  sums[li] = square;
  workgroupBarrier();
  var squares = 0.0;
  for (var l = 0u; l < 64u; l++) { squares += sums[l]; }
  let rstd = 1.0 / sqrt(squares / max(n - 1.0, 1.0) + 1.0e-8);
  for (var i = li; i < p.n; i += 64u) {
    var out = 0.0;
    if (mask[i] != 0u && n > 1.5) { out = (x[i] - mean) * rstd; }
    y[i] = out;
  }
}
