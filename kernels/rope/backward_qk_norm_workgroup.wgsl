// backward_qk_norm.wgsl with one workgroup a (row, head), as forward_qk_norm_workgroup.wgsl; a lane reads back only what it
// wrote itself.
requires immediate_address_space;

const WG = 64u; //@const a power of two

struct Params {
  rows: u32,
  heads: u32,
  kv_heads: u32,
  head_dim: u32,
  eps: f32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> qkv: array<f32>;
@group(0) @binding(1) var<storage, read> norm: array<f32>;
@group(0) @binding(2) var<storage, read> dq: array<f32>;
@group(0) @binding(3) var<storage, read> dk: array<f32>;
@group(0) @binding(4) var<storage, read> dv: array<f32>;
@group(0) @binding(5) var<storage, read> position: array<u32>;
@group(0) @binding(6) var<storage, read> table: array<f32>;
@group(0) @binding(7) var<storage, read_write> dqkv: array<f32>;

// Sums of x^2 and of w g x.
var<workgroup> sums: array<vec2<f32>, WG>;

@compute @workgroup_size(WG, 1, 1)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>, @builtin(local_invocation_index) li: u32) {
  let i = wg.y * nwg.x + wg.x;
  let turned = p.heads + p.kv_heads;
  if (i >= p.rows * turned) { return; }
  let row = i / turned;
  let head = i % turned;
  let half = p.head_dim / 2u;
  let at = (row * (turned + p.kv_heads) + head) * p.head_dim;
  let query = head < p.heads;
  let w = select(p.head_dim, 0u, query);
  var src = (row * p.heads + head) * p.head_dim;
  if (!query) { src = (row * p.kv_heads + head - p.heads) * p.head_dim; }
  let turn = position[row] * p.head_dim;
  var square = 0.0;
  var dot = 0.0;
  for (var c = li; c < half; c += WG) {
    let cosine = table[turn + 2u * c];
    let sine = table[turn + 2u * c + 1u];
    var d0 = 0.0;
    var d1 = 0.0;
    if (query) {
      d0 = dq[src + c];
      d1 = dq[src + half + c];
    } else {
      d0 = dk[src + c];
      d1 = dk[src + half + c];
    }
    let x0 = qkv[at + c];
    let x1 = qkv[at + half + c];
    let g0 = norm[w + c] * (d0 * cosine + d1 * sine);
    let g1 = norm[w + half + c] * (d1 * cosine - d0 * sine);
    square = fma(x1, x1, fma(x0, x0, square));
    dot = fma(g1, x1, fma(g0, x0, dot));
    dqkv[at + c] = g0;
    dqkv[at + half + c] = g1;
  }
  sums[li] = vec2<f32>(square, dot);
  workgroupBarrier();
  for (var s = WG / 2u; s > 0u; s >>= 1u) {
    if (li < s) { sums[li] += sums[li + s]; }
    workgroupBarrier();
  }
  let r = 1.0 / sqrt(sums[0].x / f32(p.head_dim) + p.eps);
  let mean = r * sums[0].y / f32(p.head_dim);
  let to = at + p.kv_heads * p.head_dim;
  for (var c = li; c < half; c += WG) {
    dqkv[at + c] = r * (dqkv[at + c] - qkv[at + c] * r * mean);
    dqkv[at + half + c] = r * (dqkv[at + half + c] - qkv[at + half + c] * r * mean);
    if (!query) {
      dqkv[to + c] = dv[src + c];
      dqkv[to + half + c] = dv[src + half + c];
    }
  }
}
