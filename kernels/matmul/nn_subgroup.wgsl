// out[M,N] = alpha * a[M,K] b[K,N] + a2[M,K2] b2[K2,N] + bias[N] + residual[M,N] (+ out when accumulating)
//
// Barrier-free tile for software drivers, as nt_subgroup.wgsl; each lane owns COLS quads of neighbouring columns.
// K, K2, a_stride, a0 and N must be multiples of 4.
//@include matmul/_nn_subgroup.wgsl
//@include weight/_f32.wgsl
