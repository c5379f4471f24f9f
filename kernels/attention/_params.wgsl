// Scalars of the kernels whose head size is a constant.
struct Params {
  rows: u32,
  heads: u32,
  kv_heads: u32,
  scale: f32,
}
var<immediate> p: Params;
