// AdamW (Loshchilov & Hutter 2019) over a flat buffer, with the gradient scaled by clip[0]:
//   w -= lr wd w;  m = b1 m + (1-b1) g;  v = b2 v + (1-b2) g^2;  w -= lr (m / c1) / (sqrt(v / c2) + eps),  c = 1 - beta^step.
// c and 1 - beta come from the host: the difference taken in f32 is wrong by 5e-5 at beta = 0.999.
// Nothing changes when clip[2] says that a gradient was not finite. An invocation takes EACH elements, WG apart.
requires immediate_address_space;

const WG = 64u; //@const
const EACH = 4u; //@const

struct Params {
  n: u32,
  lr: f32,
  beta1: f32,
  beta2: f32,
  eps: f32,
  weight_decay: f32,
  rest1: f32, // 1 - beta1
  rest2: f32,
  correction1: f32,
  correction2: f32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read_write> w: array<f32>;
@group(0) @binding(1) var<storage, read> g: array<f32>;
@group(0) @binding(2) var<storage, read_write> m: array<f32>;
@group(0) @binding(3) var<storage, read_write> v: array<f32>;
@group(0) @binding(4) var<storage, read> clip: array<f32>; // scale, norm, not finite

@compute @workgroup_size(WG, 1, 1)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>, @builtin(local_invocation_index) li: u32) {
  let scale = clip[0];
  if (clip[2] > 0.5) { return; }
  let first = (wg.y * nwg.x + wg.x) * WG * EACH + li;
  let last = min(first + WG * EACH, p.n);
  for (var i = first; i < last; i += WG) {
    let grad = g[i] * scale;
    let mean = p.beta1 * m[i] + p.rest1 * grad;
    let square = p.beta2 * v[i] + p.rest2 * grad * grad;
    m[i] = mean;
    v[i] = square;
    let old = w[i] * (1.0 - p.lr * p.weight_decay);
    w[i] = old - p.lr * (mean / p.correction1) / (sqrt(square / p.correction2) + p.eps);
  }
}
