// The inverse of forward.wgsl for gradients: rotates dq, dk by the negative angle and joins dq, dk, dv into dqkv. Key and value
// gradients stand at the token's own row (training only). One invocation a (row, pair).
requires immediate_address_space;

const WG = 64u; //@const

//@include rope/_params.wgsl

@group(0) @binding(0) var<storage, read> dq: array<f32>;
@group(0) @binding(1) var<storage, read> dk: array<f32>;
@group(0) @binding(2) var<storage, read> dv: array<f32>;
@group(0) @binding(3) var<storage, read> position: array<u32>;
@group(0) @binding(4) var<storage, read> table: array<f32>;
@group(0) @binding(5) var<storage, read_write> dqkv: array<f32>;

@compute @workgroup_size(WG, 1, 1)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>, @builtin(local_invocation_index) li: u32) {
  let i = (wg.y * nwg.x + wg.x) * WG + li;
  let half = p.head_dim / 2u;
  if (i >= p.rows * half) { return; }
  let row = i / half;
  let pair = i % half;
  let t = 2u * (position[row] * half + pair);
  let c = table[t];
  let s = table[t + 1u];
  var to = row * (p.heads + 2u * p.kv_heads) * p.head_dim + pair;
  var src = row * p.heads * p.head_dim + pair;
  for (var h = 0u; h < p.heads; h++) {
    let g0 = dq[src];
    let g1 = dq[src + half];
    dqkv[to] = g0 * c + g1 * s;
    dqkv[to + half] = g1 * c - g0 * s;
    src += p.head_dim;
    to += p.head_dim;
  }
  src = row * p.kv_heads * p.head_dim + pair;
  let values = p.kv_heads * p.head_dim;
  for (var h = 0u; h < p.kv_heads; h++) {
    let g0 = dk[src];
    let g1 = dk[src + half];
    dqkv[to] = g0 * c + g1 * s;
    dqkv[to + half] = g1 * c - g0 * s;
    dqkv[to + values] = dv[src];
    dqkv[to + values + half] = dv[src + half];
    src += p.head_dim;
    to += p.head_dim;
  }
}
