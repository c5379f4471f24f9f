// The inverse of forward.wgsl for gradients: rotates dq, dk by the negative angle and joins dq, dk, dv into dqkv. Key and value
// gradients stand at the token's own row (training only). One invocation a (row, head, pair).
requires immediate_address_space;

const WG = 64u; //@const

struct Params {
  rows: u32,
  heads: u32,
  kv_heads: u32,
  head_dim: u32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> dq: array<f32>;
@group(0) @binding(1) var<storage, read> dk: array<f32>;
@group(0) @binding(2) var<storage, read> dv: array<f32>;
@group(0) @binding(3) var<storage, read> position: array<u32>;
@group(0) @binding(4) var<storage, read> cosine: array<f32>;
@group(0) @binding(5) var<storage, read> sine: array<f32>;
@group(0) @binding(6) var<storage, read_write> dqkv: array<f32>;

@compute @workgroup_size(WG, 1, 1)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>, @builtin(local_invocation_index) li: u32) {
  let i = (wg.y * nwg.x + wg.x) * WG + li;
  let half = p.head_dim / 2u;
  let all = p.heads + 2u * p.kv_heads;
  if (i >= p.rows * all * half) { return; }
  let pair = i % half;
  let head = (i / half) % all;
  let row = i / (half * all);
  let to = (row * all + head) * p.head_dim + pair;
  if (head >= p.heads + p.kv_heads) {
    let src = (row * p.kv_heads + head - p.heads - p.kv_heads) * p.head_dim + pair;
    dqkv[to] = dv[src];
    dqkv[to + half] = dv[src + half];
    return;
  }
  var g0 = 0.0;
  var g1 = 0.0;
  if (head < p.heads) {
    let src = (row * p.heads + head) * p.head_dim + pair;
    g0 = dq[src];
    g1 = dq[src + half];
  } else {
    let src = (row * p.kv_heads + head - p.heads) * p.head_dim + pair;
    g0 = dk[src];
    g1 = dk[src + half];
  }
  let t = position[row] * half + pair;
  let c = cosine[t];
  let s = sine[t];
  dqkv[to] = g0 * c + g1 * s;
  dqkv[to + half] = g1 * c - g0 * s;
}
