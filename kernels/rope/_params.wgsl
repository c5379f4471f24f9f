// Scalars of the rotation.
struct Params {
  rows: u32,
  heads: u32,
  kv_heads: u32,
  head_dim: u32,
}
var<immediate> p: Params;
