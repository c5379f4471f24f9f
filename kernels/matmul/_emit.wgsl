// What is done with four finished neighbours of a row: bias, residual, accumulation and the store, or the store of a partial sum.

// The tile of this workgroup (row, column): eight rows of tiles are walked column by column, so that what runs together shares operands.
fn tile_of(wg: vec3<u32>, grid: vec3<u32>) -> vec2<u32> {
  let id = wg.y * grid.x + wg.x;
  let band = 8u * grid.x;
  let first = (id / band) * 8u;
  let rows = min(grid.y - first, 8u);
  let within = id % band;
  return vec2<u32>(first + within % rows, within / rows);
}

// `c` counts columns of this part of b and is a multiple of 4; so are n, col0 and cols.
fn emit(r: u32, c: u32, split: u32, sum: vec4<f32>) {
  if (r >= p.m || c >= p.n) { return; }
  if ((p.flags & 8u) != 0u) {
    out[((split * p.m + r) * p.n + c) / 4u] = sum;
    return;
  }
  let column = (p.col0 + c) / 4u;
  let at = r * (p.cols / 4u) + column;
  var y = sum;
  if ((p.flags & 1u) != 0u) { y += bias[column]; }
  if ((p.flags & 2u) != 0u) { y += residual[at]; }
  if ((p.flags & 4u) != 0u) { y += out[at]; }
  out[at] = y;
}
