// backward_query.wgsl in tiles, as forward_flash.wgsl: dq = scale * dS K for a tile of lines, dS = exp(S - lse) * (dO V' - delta). stat holds lse and delta.
requires immediate_address_space;

const TX = 16u; //@const as forward_flash.wgsl
const TY = 8u; //@const
const PER = 2u; //@const
const OWN = 2u; //@const
const CHUNK = 8u; //@const

//@include attention/_params_quads.wgsl

//@include attention/_query_tile_bindings.wgsl

//@include attention/_flash_shared.wgsl

@compute @workgroup_size(WG, 1, 1)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(num_workgroups) nwg: vec3<u32>, @builtin(local_invocation_index) li: u32) {
  let tx = li % TX;
  let ty = li / TX;
  let group = wg.y;
  let shared_by = p.heads / p.kv_heads;
  let first_pair = (nwg.x - 1u - wg.x) * LINES; // the longest key ranges first
  let last_pair = min(first_pair + LINES, p.rows * shared_by) - 1u;
//@include attention/_flash_lines.wgsl
//@for i 0 4
  let row$i = line_row[4u * ty + $iu];
  let at$i = line_at[4u * ty + $iu];
  let lse$i = stat[2u * (at$i / p.quads)];
  let delta$i = stat[2u * (at$i / p.quads) + 1u];
//@end
//@include attention/_each_sequence.wgsl
    let last = until;
//@for i 0 4
    let limit$i = select(0u, row$i + 1u, row$i >= run && row$i < until);
//@for c 0 OWN
    var own$i_$c = vec4<f32>();
//@end
//@end
    for (var b = first; b < last; b += KEYS) {
      let count = min(KEYS, last - b);
//@for i 0 4
//@for c 0 PER
      var s$i_$c = 0.0;
      var g$i_$c = 0.0;
//@end
//@end
      // The scores q k', then dO v'.
      for (var side = 0u; side < 2u; side++) {
        for (var part = 0u; part < p.quads; part += CHUNK) {
          let depth = min(CHUNK, p.quads - part); // not a constant: compilers of software drivers take seconds for unrolled tiles
          for (var e = li; e < LINES * CHUNK; e += WG) {
            let d = part + e % CHUNK;
            var x = vec4<f32>();
            if (d < p.quads) {
              if (side == 0u) { x = q[line_at[e / CHUNK] + d] * p.scale; } else { x = d_o[line_at[e / CHUNK] + d]; }
            }
            left[(e / CHUNK) * STRIDE + e % CHUNK] = x;
          }
          for (var e = li; e < KEYS * CHUNK; e += WG) {
            let d = part + e % CHUNK;
            var x = vec4<f32>();
            if (d < p.quads && e / CHUNK < count) {
              if (side == 0u) { x = k[((b + e / CHUNK) * p.kv_heads + group) * p.quads + d]; } else { x = v[((b + e / CHUNK) * p.kv_heads + group) * p.quads + d]; }
            }
            right[(e / CHUNK) * STRIDE + e % CHUNK] = x;
          }
          workgroupBarrier();
//@include attention/_flash_products.wgsl
          workgroupBarrier();
        }
//@include attention/_flash_side.wgsl
      }
//@for i 0 4
//@for c 0 PER
      {
        let t = tx + $cu * TX;
        // Outside of the own range the score may be anything, also one whose exponential overflows.
        score[(4u * ty + $iu) * ROW + t] = select(0.0, exp(s$i_$c - lse$i) * (g$i_$c - delta$i) * p.scale, b + t < limit$i);
      }
//@end
//@end
      workgroupBarrier();
      for (var t = 0u; t < count; t++) {
        let kj = ((b + t) * p.kv_heads + group) * p.quads + tx;
//@for i 0 4
        let w$i = score[(4u * ty + $iu) * ROW + t];
//@end
//@for c 0 OWN
        if (tx + $cu * TX < p.quads) {
          let x = k[kj + $cu * TX];
//@for i 0 4
          own$i_$c = fma(x, vec4<f32>(w$i), own$i_$c);
//@end
        }
//@end
      }
    }
//@for i 0 4
    if (row$i >= run && row$i < until) {
//@for c 0 OWN
      if (tx + $cu * TX < p.quads) { dq[at$i + tx + $cu * TX] = own$i_$c; }
//@end
    }
//@end
    run = until;
  }
}
