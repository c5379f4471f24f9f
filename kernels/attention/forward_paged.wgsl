// forward.wgsl over a paged cache: row r belongs to the sequence of slot[r] and sees its keys 0 … position[r], which lie in pages of PAGE rows; page_table
// [slots, max_pages] names the pages of a slot in order. Keys are taken in order of their position whatever pages they lie in, so a row's bits do
// not depend on where the pages are, on the rows beside it, or on how its prompt was cut into passes. One invocation a (row, head).
requires immediate_address_space;

const WG = 64u; //@const
const QUADS = 6u; //@const
const PAGE = 16u; //@const

struct Params {
  rows: u32,
  heads: u32,
  kv_heads: u32,
  max_pages: u32,
  scale: f32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> q: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> k: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> v: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> page_table: array<u32>;
@group(0) @binding(4) var<storage, read> slot: array<u32>;
@group(0) @binding(5) var<storage, read> position: array<u32>;
@group(0) @binding(6) var<storage, read_write> o: array<vec4<f32>>;

@compute @workgroup_size(WG, 1, 1)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>, @builtin(local_invocation_index) li: u32) {
  let i = (wg.y * nwg.x + wg.x) * WG + li;
  if (i >= p.rows * p.heads) { return; }
  let row = i / p.heads;
  let head = i % p.heads;
  let group = head / (p.heads / p.kv_heads);
  let at = i * QUADS;
  let step = p.kv_heads * QUADS;
//@for d 0 QUADS
  let q$d = q[at + $du] * p.scale;
  var o$d = vec4<f32>();
//@end
  var m = -3.0e38;
  var l = 0.0;
  let keys = position[row] + 1u;
  var entry = slot[row] * p.max_pages;
  for (var b = 0u; b < keys; b += PAGE) {
    var kj = (page_table[entry] * PAGE * p.kv_heads + group) * QUADS;
    entry += 1u;
    let count = min(PAGE, keys - b);
    for (var t = 0u; t < count; t++) {
      var s = 0.0;
//@for d 0 QUADS
      s += dot(q$d, k[kj + $du]);
//@end
      let next = max(m, s);
      let keep = exp(m - next);
      let w = exp(s - next);
      l = l * keep + w;
//@for d 0 QUADS
      o$d = o$d * keep + v[kj + $du] * w;
//@end
      m = next;
      kj += step;
    }
  }
//@for d 0 QUADS
  o[at + $du] = o$d * (1.0 / l);
//@end
}
