// Turns the rows of [alpha a[:, a0 … a0 + k] | a2] into 16-bit floats for the half and matrix variants: out[PARTS][rows][stride] in octets and
// a power of two for each row (see _pack.wgsl). Both pieces are padded with zeros to whole panels. One workgroup a row; a row's result
// depends on that row alone.
requires immediate_address_space;

const WG = 128u; //@const
const PARTS = 1u; //@const 2: also what the rounding left

struct Params {
  rows: u32,
  k: u32, // a multiple of 4, as a_stride, a0 and k2 are
  k2: u32,
  a_stride: u32,
  a0: u32,
  alpha: f32,
  padded: u32, // columns of the first piece with its padding, a multiple of 8
  stride: u32, // columns of both pieces with their padding, a multiple of 8
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> a: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> a2: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> out: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read_write> scale: array<f32>;

var<workgroup> largest: array<u32, WG>;

//@include matmul/_pack.wgsl

fn quad(row: u32, col: u32) -> vec4<f32> {
  if (col < p.padded) {
    if (col >= p.k) { return vec4<f32>(); }
    return p.alpha * a[(row * p.a_stride + p.a0 + col) / 4u];
  }
  if (col - p.padded >= p.k2) { return vec4<f32>(); }
  return a2[(row * p.k2 + col - p.padded) / 4u];
}

@compute @workgroup_size(WG, 1, 1)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>, @builtin(local_invocation_index) li: u32) {
  let row = wg.y * grid.x + wg.x;
  if (row >= p.rows) { return; }
  // Magnitudes order as their bits do, infinities and what is no number above all else.
  var most = 0u;
  for (var col = li * 4u; col < p.stride; col += WG * 4u) {
    let bits = bitcast<vec4<u32>>(quad(row, col)) & vec4<u32>(0x7fffffffu);
    most = max(most, max(max(bits.x, bits.y), max(bits.z, bits.w)));
  }
  largest[li] = most;
  for (var half = WG / 2u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (li < half) { largest[li] = max(largest[li], largest[li + half]); }
  }
  workgroupBarrier();
  let f = factors(largest[0]);
  if (li == 0u) { scale[row] = f.y; }
  let octets = p.stride / 8u;
  for (var o = li; o < octets; o += WG) {
    let x = f.x * quad(row, o * 8u);
    let y = f.x * quad(row, o * 8u + 4u);
    if (PARTS == 2u) {
      let u = rounded(x);
      let v = rounded(y);
      out[row * octets + o] = halves(u, v);
      out[(p.rows + row) * octets + o] = halves(x - u, y - v);
    } else {
      out[row * octets + o] = halves(x, y);
    }
  }
}
