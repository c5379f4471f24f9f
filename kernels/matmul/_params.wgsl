struct Params {
  m: u32,
  n: u32, // columns of this part of b
  k: u32,
  k2: u32,
  alpha: f32, // already in a where a is packed
  flags: u32, // 1 bias, 2 residual, 4 accumulate, 8 store the bare sum of a split
  b_stride: u32, // numbers from one row of b to the next
  col0: u32, // NT: column of out, bias, residual and row of b2 at which this part of b begins
  cols: u32, // columns of out in all
  a_stride: u32, // numbers from one row of a to the next
  a0: u32, // NN: column of a at which this part of b's rows begins
  panels: u32, // panels of the main product; those of the second follow
  span: u32, // panels a split takes (workgroup z)
}
var<immediate> p: Params;

@group(0) @binding(3) var<storage, read> b2: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> bias: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read> residual: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read_write> out: array<vec4<f32>>;
