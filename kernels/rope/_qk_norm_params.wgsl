// Scalars of the rotation of normed heads.
struct Params {
  rows: u32,
  heads: u32,
  kv_heads: u32,
  head_dim: u32,
  eps: f32,
}
var<immediate> p: Params;
