// Forward over a paged cache on drivers that compute on the CPU: row r belongs to the sequence of slot[r] and sees its keys 0 … position[r], which lie in
// pages of PAGE rows; page_table [slots, max_pages] names the pages of a slot in order. The lanes of a subgroup are neighbouring (row, head of one kv head)
// pairs. Rows of one slot walk through its pages together: each lane loads some quads of the key and of the value and hands them to the others by
// broadcast, since loads are what costs there. Several slots are walked one after the other.
//
// A lane takes its keys in order of their position and no notice of others: a row's bits do not depend on where the pages are, on the rows beside it, or
// on how its prompt was cut into passes. Rows of one slot must stand together with ascending positions.
// head_dim / 4 = FULL * SG + REST.
enable subgroups;
requires immediate_address_space;

const SG = 8u; //@const
const FULL = 1u; //@const
const REST = 2u; //@const
const PAGE = 16u; //@const

const quads = FULL * SG + REST;

struct Params {
  rows: u32,
  heads: u32,
  kv_heads: u32,
  max_pages: u32,
  lanes: u32, // pairs a subgroup takes, at most SG: whole rows where they fit
  scale: f32,
}
var<immediate> p: Params;

//@include attention/_paged_bindings.wgsl
@group(0) @binding(6) var<storage, read_write> o: array<vec4<f32>>;

@compute @workgroup_size(SG, 1, 1)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let group = wg.y;
  let shared_by = p.heads / p.kv_heads;
  let pairs = p.rows * shared_by;
  let first_pair = wg.x * p.lanes;
  let last_pair = min(first_pair + p.lanes, pairs) - 1u;
  let pair = min(first_pair + lane, last_pair);
  let row = pair / shared_by;
  let at = (row * p.heads + group * shared_by + pair % shared_by) * quads;
//@for c 0 FULL
//@for e 0 SG
  let q$c_$e = q[at + $cu * SG + $eu] * p.scale;
  var o$c_$e = vec4<f32>();
//@end
//@end
//@for e 0 REST
  let qr_$e = q[at + FULL * SG + $eu] * p.scale;
  var or_$e = vec4<f32>();
//@end
  var m = -3.0e38;
  var l = 0.0;
  let own_keys = position[row] + 1u;
  let step = p.kv_heads * quads;
  let last_row = last_pair / shared_by;
  var run = first_pair / shared_by;
  while (run <= last_row) {
    // Rows run … until - 1 are of one slot; the last of them sees the most.
    let own_slot = slot[run];
    var until = run + 1u;
    while (until <= last_row && slot[until] == own_slot) { until += 1u; }
    let keys = select(0u, own_keys, row >= run && row < until);
    let most = position[until - 1u] + 1u;
    for (var b = 0u; b < most; b += PAGE) {
      var kj = (page_table[own_slot * p.max_pages + b / PAGE] * PAGE * p.kv_heads + group) * quads + lane;
      let end = min(b + PAGE, most);
      for (var j = b; j < end; j++) {
        var s = 0.0;
//@for c 0 FULL
        let k$c = k[kj + $cu * SG];
        let v$c = v[kj + $cu * SG];
//@end
        // Lanes from REST on load what nobody asks for.
        let kr = k[kj + FULL * SG];
        let vr = v[kj + FULL * SG];
//@for c 0 FULL
//@for e 0 SG
        s += dot(q$c_$e, subgroupBroadcast(k$c, $eu));
//@end
//@end
//@for e 0 REST
        s += dot(qr_$e, subgroupBroadcast(kr, $eu));
//@end
        let own = j < keys;
        let next = select(m, max(m, s), own);
        let keep = exp(m - next);
        let w = select(0.0, exp(s - next), own);
        l = l * keep + w;
//@for c 0 FULL
//@for e 0 SG
        o$c_$e = o$c_$e * keep + subgroupBroadcast(v$c, $eu) * w;
//@end
//@end
//@for e 0 REST
        or_$e = or_$e * keep + subgroupBroadcast(vr, $eu) * w;
//@end
        m = next;
        kj += step;
      }
    }
    run = until;
  }
  if (first_pair + lane <= last_pair) {
    let inv = 1.0 / l;
//@for c 0 FULL
//@for e 0 SG
    o[at + $cu * SG + $eu] = o$c_$e * inv;
//@end
//@end
//@for e 0 REST
    o[at + FULL * SG + $eu] = or_$e * inv;
//@end
  }
}
