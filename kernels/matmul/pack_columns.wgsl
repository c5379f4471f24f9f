// pack.wgsl for an operand that lies the other way: out[PARTS][m][stride] are the columns of alpha a[k, m]. What TN needs of both operands.
// COLS columns a workgroup, LANES threads along k for each.
requires immediate_address_space;

const COLS = 32u; //@const
const LANES = 8u; //@const
const PARTS = 1u; //@const 2: also what the rounding left

struct Params {
  m: u32,
  k: u32,
  alpha: f32,
  stride: u32, // k with its padding, a multiple of 8
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> a: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read_write> scale: array<f32>;

var<workgroup> largest: array<u32, COLS * LANES>;

//@include matmul/_pack.wgsl

fn at(k: u32, m: u32) -> f32 {
  if (k >= p.k || m >= p.m) { return 0.0; }
  return p.alpha * a[k * p.m + m];
}

@compute @workgroup_size(COLS, LANES, 1)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_id) lid: vec3<u32>) {
  let m = wg.x * COLS + lid.x;
  var most = 0u;
  for (var k = lid.y; k < p.k; k += LANES) { most = max(most, bitcast<u32>(at(k, m)) & 0x7fffffffu); }
  largest[lid.y * COLS + lid.x] = most;
  workgroupBarrier();
  for (var l = 0u; l < LANES; l++) { most = max(most, largest[l * COLS + lid.x]); }
  if (m >= p.m) { return; }
  let f = factors(most);
  if (lid.y == 0u) { scale[m] = f.y; }
  let octets = p.stride / 8u;
  for (var o = lid.y; o < octets; o += LANES) {
    let k = o * 8u;
    let x = f.x * vec4<f32>(at(k, m), at(k + 1u, m), at(k + 2u, m), at(k + 3u, m));
    let y = f.x * vec4<f32>(at(k + 4u, m), at(k + 5u, m), at(k + 6u, m), at(k + 7u, m));
    if (PARTS == 2u) {
      let u = rounded(x);
      let v = rounded(y);
      out[m * octets + o] = halves(u, v);
      out[(p.m + m) * octets + o] = halves(x - u, y - v);
    } else {
      out[m * octets + o] = halves(x, y);
    }
  }
}
