// x ← a x + b over eight independent quads an invocation: what the device's f32 units can do at most, 64 operations an
// invocation and round and no memory. a and b are parameters, so nothing can be folded; the fixed point of the map keeps x finite.
requires immediate_address_space;

const WG = 256u; //@const

struct Params {
  rounds: u32,
  groups: u32, // workgroups; out holds WG elements of each
  a: f32,
  b: f32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(WG, 1, 1)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) li: u32) {
  if (wg.x >= p.groups) { return; }
  let a = vec4<f32>(p.a);
  let b = vec4<f32>(p.b);
  let seed = f32(li) * 0.001;
  var x0 = vec4<f32>(seed);
  var x1 = vec4<f32>(seed + 0.1);
  var x2 = vec4<f32>(seed + 0.2);
  var x3 = vec4<f32>(seed + 0.3);
  var x4 = vec4<f32>(seed + 0.4);
  var x5 = vec4<f32>(seed + 0.5);
  var x6 = vec4<f32>(seed + 0.6);
  var x7 = vec4<f32>(seed + 0.7);
  for (var r = 0u; r < p.rounds; r++) {
    x0 = fma(a, x0, b);
    x1 = fma(a, x1, b);
    x2 = fma(a, x2, b);
    x3 = fma(a, x3, b);
    x4 = fma(a, x4, b);
    x5 = fma(a, x5, b);
    x6 = fma(a, x6, b);
    x7 = fma(a, x7, b);
  }
  let sum = x0 + x1 + x2 + x3 + x4 + x5 + x6 + x7;
  out[wg.x * WG + li] = sum.x + sum.y + sum.z + sum.w;
}
