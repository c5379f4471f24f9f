// Where 16-bit floats in 16 x 16 tiles lie: a tile is 512 bytes, rows of 16 numbers in it; tiles row by row. b_stride is a multiple of 16, rows
// past the last are zeros up to the next multiple of 16.

// The first of the 16 numbers of `row` in tile `t` of its band, counted in units of `each` numbers (a divisor of 16).
fn tile_row(row: u32, t: u32, each: u32) -> u32 {
  return ((row / 16u) * (p.b_stride / 16u) + t) * (256u / each) + (row % 16u) * (16u / each);
}
