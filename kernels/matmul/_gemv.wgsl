enable subgroups;
requires immediate_address_space;

// A file that includes this sets NORM: 1 where a is normed on the way.
const WG = 128u; //@const
const SUBGROUPS = 4u; //@const WG / the largest subgroup
const ROWS = 1u; //@const rows of a at once
const OUT = 4u; //@const rows of b a subgroup
const GATED = 0u; //@const 1: the second half of b's rows gates the first
const SPAN = OUT >> GATED; // columns of out a subgroup

struct Params {
  m: u32,
  n: u32, // rows of this part of b
  k: u32, // a multiple of 4, as k2 is
  k2: u32,
  alpha: f32,
  flags: u32, // 1 bias, 2 residual, 4 accumulate
  b_stride: u32, // numbers from one row of b to the next
  col0: u32, // column of out, bias, residual and row of b2 at which this part of b begins
  cols: u32, // columns of out in all
//@for normed 0 NORM
  eps: f32,
//@end
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> a: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> a2: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> b2: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> bias: array<f32>;
//@for plain NORM 1
@group(0) @binding(5) var<storage, read> residual: array<f32>;
//@end
//@for normed 0 NORM
@group(0) @binding(5) var<storage, read> norm: array<vec4<f32>>; // [k]
//@end
@group(0) @binding(6) var<storage, read_write> out: array<f32>;

fn sum4(x: vec4<f32>) -> f32 { return (x.x + x.y) + (x.z + x.w); }

@compute @workgroup_size(WG, 1, 1)
fn main(
  @builtin(workgroup_id) wg: vec3<u32>,
  @builtin(subgroup_id) subgroup: u32,
  @builtin(subgroup_size) size: u32,
  @builtin(subgroup_invocation_id) lane: u32,
) {
  let c0 = (wg.x * SUBGROUPS + subgroup) * SPAN;
  let r0 = wg.y * ROWS;
  let k4 = p.k / 4u;
  let width = p.n >> GATED;
//@for o 0 OUT
  let col$o = min(c0 + $ou % SPAN, width - 1u) + $ou / SPAN * width;
//@end
//@for r 0 ROWS
  let row$r = min(r0 + $ru, p.m - 1u);
//@for normed 0 NORM
  var squares$r = vec4<f32>();
//@end
//@for o 0 OUT
  var c$r_$o = vec4<f32>();
//@end
//@end
  // The next chunk is on its way while one is used: with few columns there are too few threads to hide memory otherwise.
  let last = (k4 - 1u) / QUADS;
//@for o 0 OUT
  var next$o = b_chunk(col$o, min(lane, last));
  var next_block$o = b_block(col$o, min(lane, last));
//@end
  for (var chunk = lane; chunk * QUADS < k4; chunk += size) {
    let after = min(chunk + size, last);
//@for o 0 OUT
    let w$o = next$o;
    let block$o = next_block$o;
    next$o = b_chunk(col$o, after);
    next_block$o = b_block(col$o, after);
//@end
//@for q 0 QUADS
    {
      let at = chunk * QUADS + $qu;
      if (at < k4) {
//@for r 0 ROWS
//@for plain NORM 1
        let x$r = a[row$r * k4 + at];
//@end
//@for normed 0 NORM
        let raw$r = a[row$r * k4 + at];
        squares$r = fma(raw$r, raw$r, squares$r);
        let x$r = raw$r * norm[at];
//@end
//@end
//@for o 0 OUT
        {
          let w = b_part(w$o, block$o, $qu);
//@for r 0 ROWS
          c$r_$o = fma(x$r, w, c$r_$o);
//@end
        }
//@end
      }
    }
//@end
  }
//@for normed 0 NORM
//@for r 0 ROWS
  let rstd$r = 1.0 / sqrt(subgroupAdd(sum4(squares$r)) / f32(p.k) + p.eps);
//@end
//@end
//@for o 0 OUT
  {
    let factor = p.alpha * b_scale(col$o);
//@for r 0 ROWS
//@for plain NORM 1
    c$r_$o *= factor;
//@end
//@for normed 0 NORM
    c$r_$o *= factor * rstd$r;
//@end
//@end
  }
//@end
  for (var at = lane; at < p.k2 / 4u; at += size) {
//@for r 0 ROWS
    let x$r = a2[row$r * (p.k2 / 4u) + at];
//@end
//@for o 0 OUT
    {
      let w = b2[(p.col0 + col$o) * (p.k2 / 4u) + at];
//@for r 0 ROWS
      c$r_$o = fma(x$r, w, c$r_$o);
//@end
    }
//@end
  }
//@for r 0 ROWS
  {
    var y = 0.0;
//@for gated 0 GATED
    var up = 0.0;
//@end
//@for o 0 OUT
    {
      let sum = subgroupAdd(sum4(c$r_$o));
      y = select(y, sum, lane == $ou);
//@for gated 0 GATED
      up = select(up, sum, lane + SPAN == $ou);
//@end
    }
//@end
//@for gated 0 GATED
    y = y / (1.0 + exp(-clamp(y, -80.0, 80.0))) * up;
//@end
    // Neighbouring lanes store neighbouring columns; subgroups have at least OUT lanes.
    if (subgroup < SUBGROUPS && lane < SPAN && r0 + $ru < p.m && c0 + lane < width) { store(r0 + $ru, p.col0 + c0 + lane, y); }
  }
//@end
}

fn store(r: u32, c: u32, sum: f32) {
  let at = r * p.cols + c;
  var y = sum;
  if ((p.flags & 1u) != 0u) { y += bias[c]; }
//@for plain NORM 1
  if ((p.flags & 2u) != 0u) { y += residual[at]; }
//@end
  if ((p.flags & 4u) != 0u) { y += out[at]; }
  out[at] = y;
}
