// gemv.wgsl of the rows' RMS norm: alpha * (a / rms(a) * norm) b^T + a2 b2^T + bias (+ out). Every subgroup adds up the squares of a beside
// its products, from the same loads; what they scale follows at the end. With GATED, b's rows are those of a gate and then as many of what
// it gates, and out[M,N/2] = silu(gate) * up, silu(x) = x / (1 + exp(-x)).
//@include matmul/_gemv.wgsl
//@include weight/_f32_chunk.wgsl
const NORM = 1u; //@const
