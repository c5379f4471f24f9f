// Scalars of the kernels whose head size is a parameter.
struct Params {
  rows: u32,
  heads: u32,
  kv_heads: u32,
  scale: f32,
  quads: u32, // head_dim / 4, a parameter so that its loops are not unrolled: compilers of software drivers take seconds for those
}
var<immediate> p: Params;
