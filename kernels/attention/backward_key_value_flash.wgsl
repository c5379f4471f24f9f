// backward_key_value.wgsl in tiles: a workgroup owns a tile of key rows of one kv head and takes it through the lines (query row, head of the group) of its
// sequence in order, in blocks. dv = P' dO, dk = scale * dS' Q; each key's sum runs over rows, then heads: a fixed order, no float atomics.
//
// Keys of a tile may be of several sequences: each walks through its own lines and only its own keys are written. stat holds lse and delta.
requires immediate_address_space;

const TX = 16u; //@const a tile has 4 TY keys; blocks have TX * PER lines
const TY = 8u; //@const
const PER = 2u; //@const
const OWN = 2u; //@const quads of dk and of dv a lane: head_dim / 4 / TX, rounded up
const CHUNK = 4u; //@const quads of a head staged at a time

//@include attention/_params_quads.wgsl

//@include attention/_key_value_bindings.wgsl

const OWNED = 4u * TY; // keys
const BLOCK = TX * PER; // lines
const WG = TX * TY;
const STRIDE = CHUNK + 1u;
const ROW = BLOCK + 1u;

var<workgroup> left: array<vec4<f32>, OWNED * STRIDE>;
var<workgroup> right: array<vec4<f32>, BLOCK * STRIDE>;
var<workgroup> weight: array<f32, OWNED * ROW>;
var<workgroup> slope: array<f32, OWNED * ROW>;
var<workgroup> line_head: array<u32, BLOCK>; // row * heads + head

@compute @workgroup_size(WG, 1, 1)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) li: u32) {
  let tx = li % TX;
  let ty = li / TX;
  let group = wg.y;
  let shared_by = p.heads / p.kv_heads;
  let first = wg.x * OWNED;
  let end = min(first + OWNED, p.rows);
  var run = first;
  while (run < end) {
    // Keys run … until - 1 are of one sequence, which ends before `last`.
    let last = q_end[run];
    var until = run + 1u;
    while (until < end && q_end[until] == last) { until += 1u; }
    let lines = (last - run) * shared_by;
//@for i 0 4
//@for c 0 OWN
    var k$i_$c = vec4<f32>();
    var v$i_$c = vec4<f32>();
//@end
//@end
    for (var b = 0u; b < lines; b += BLOCK) {
      let count = min(BLOCK, lines - b);
      if (li < BLOCK) {
        let e = min(b + li, lines - 1u);
        line_head[li] = (run + e / shared_by) * p.heads + group * shared_by + e % shared_by;
      }
      workgroupBarrier();
//@for i 0 4
//@for c 0 PER
      var s$i_$c = 0.0;
      var g$i_$c = 0.0;
//@end
//@end
      // The scores k q', then v dO'.
      for (var side = 0u; side < 2u; side++) {
        for (var part = 0u; part < p.quads; part += CHUNK) {
          let depth = min(CHUNK, p.quads - part); // not a constant: compilers of software drivers take seconds for unrolled tiles
          for (var e = li; e < OWNED * CHUNK; e += WG) {
            let d = part + e % CHUNK;
            var x = vec4<f32>();
            if (d < p.quads) {
              if (side == 0u) { x = k[(min(first + e / CHUNK, end - 1u) * p.kv_heads + group) * p.quads + d] * p.scale; } else { x = v[(min(first + e / CHUNK, end - 1u) * p.kv_heads + group) * p.quads + d]; }
            }
            left[(e / CHUNK) * STRIDE + e % CHUNK] = x;
          }
          for (var e = li; e < BLOCK * CHUNK; e += WG) {
            let d = part + e % CHUNK;
            var x = vec4<f32>();
            if (d < p.quads) {
              if (side == 0u) { x = q[line_head[e / CHUNK] * p.quads + d]; } else { x = d_o[line_head[e / CHUNK] * p.quads + d]; }
            }
            right[(e / CHUNK) * STRIDE + e % CHUNK] = x;
          }
          workgroupBarrier();
//@include attention/_flash_products.wgsl
          workgroupBarrier();
        }
//@include attention/_flash_side.wgsl
      }
//@for c 0 PER
      {
        let t = tx + $cu * TX;
        let i = line_head[t];
        let row = i / p.heads;
        let lse = stat[2u * i];
        let delta = stat[2u * i + 1u];
//@for i 0 4
        {
          let j = first + 4u * ty + $iu;
          // Outside of the own range the score may be anything, also one whose exponential overflows.
          let w = select(0.0, exp(s$i_$c - lse), t < count && j <= row);
          weight[(4u * ty + $iu) * ROW + t] = w;
          slope[(4u * ty + $iu) * ROW + t] = select(0.0, w * (g$i_$c - delta) * p.scale, w != 0.0);
        }
//@end
      }
//@end
      workgroupBarrier();
      for (var t = 0u; t < count; t++) {
        let at = line_head[t] * p.quads + tx;
//@for i 0 4
        let w$i = weight[(4u * ty + $iu) * ROW + t];
        let z$i = slope[(4u * ty + $iu) * ROW + t];
//@end
//@for c 0 OWN
        if (tx + $cu * TX < p.quads) {
          let x = q[at + $cu * TX];
          let y = d_o[at + $cu * TX];
//@for i 0 4
          v$i_$c = fma(y, vec4<f32>(w$i), v$i_$c);
          k$i_$c = fma(x, vec4<f32>(z$i), k$i_$c);
//@end
        }
//@end
      }
      workgroupBarrier();
    }
//@for i 0 4
    {
      let j = first + 4u * ty + $iu;
      if (j >= run && j < until) {
        let at = (j * p.kv_heads + group) * p.quads + tx;
//@for c 0 OWN
        if (tx + $cu * TX < p.quads) {
          dk[at + $cu * TX] = k$i_$c;
          dv[at + $cu * TX] = v$i_$c;
        }
//@end
      }
    }
//@end
    run = until;
  }
}
