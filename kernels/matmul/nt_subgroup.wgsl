// out[M,N] = alpha * a[M,K] b[N,K]^T + a2[M,K2] b2[N,K2]^T + bias[N] + residual[M,N] (+ out when accumulating)
//
// Barrier-free tile for software drivers: one subgroup computes ROWS x (COLS * SG) outputs. Each lane loads one element
// of a row of `a` and hands it to the others by broadcast, so ROWS + 8 COLS loads feed 8 ROWS COLS multiply-adds; loads are what
// costs there. K and K2 must be multiples of SG (and of 4).
//@include matmul/_nt_subgroup.wgsl
//@include weight/_f32.wgsl
