// out[M,N] = alpha * a[M,K] b[N,K]^T + a2 b2^T + bias + residual (+ out) for few rows: a subgroup reads OUT rows of b, 16 bytes a lane at a
// time, and adds over its lanes in the end. What a row of a gives does not depend on ROWS or on the other rows. K and K2 must be multiples of 4.
//@include matmul/_gemv.wgsl
//@include weight/_f32_chunk.wgsl
const NORM = 0u; //@const
