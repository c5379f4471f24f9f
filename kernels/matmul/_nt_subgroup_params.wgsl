struct Params {
  m: u32,
  n: u32,
  k: u32,
  k2: u32,
  alpha: f32,
  flags: u32, // 1 bias, 2 residual, 4 accumulate
  b_stride: u32, // numbers from one row of b to the next
  col0: u32, // column of out, bias, residual and row of b2 at which this part of b begins
  cols: u32, // columns of out in all
}
var<immediate> p: Params;
