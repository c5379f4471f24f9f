// Splits fused projections qkv[r, (H + 2 G) D] into rotated q[r, H D] and rotated k, plain v in row kv_row[r] of the key and value
// stores [*, G D]: training writes rows in place, decoding scatters into its cache. Half-split pairs (i, i + D/2) as in
// Llama and Qwen2; cos and sin come from a table [position, D/2, 2] made in f64. One invocation a (row, pair)
// turns all heads by the same angle.
requires immediate_address_space;

const WG = 64u; //@const

//@include rope/_params.wgsl

@group(0) @binding(0) var<storage, read> qkv: array<f32>;
@group(0) @binding(1) var<storage, read> position: array<u32>;
@group(0) @binding(2) var<storage, read> kv_row: array<u32>;
@group(0) @binding(3) var<storage, read> table: array<f32>;
@group(0) @binding(4) var<storage, read_write> q: array<f32>;
@group(0) @binding(5) var<storage, read_write> k: array<f32>;
@group(0) @binding(6) var<storage, read_write> v: array<f32>;

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
  var src = row * (p.heads + 2u * p.kv_heads) * p.head_dim + pair;
  var to = row * p.heads * p.head_dim + pair;
  for (var h = 0u; h < p.heads; h++) {
    let x0 = qkv[src];
    let x1 = qkv[src + half];
    q[to] = x0 * c - x1 * s;
    q[to + half] = x1 * c + x0 * s;
    src += p.head_dim;
    to += p.head_dim;
  }
  to = kv_row[row] * p.kv_heads * p.head_dim + pair;
  let values = p.kv_heads * p.head_dim;
  for (var h = 0u; h < p.kv_heads; h++) {
    let x0 = qkv[src];
    let x1 = qkv[src + half];
    k[to] = x0 * c - x1 * s;
    k[to + half] = x1 * c + x0 * s;
    v[to] = qkv[src + values];
    v[to + half] = qkv[src + values + half];
    src += p.head_dim;
    to += p.head_dim;
  }
}
