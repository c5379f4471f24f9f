// out[M,N] = alpha * a[M,K] b[N,K]^T + a2[M,K2] b2[N,K2]^T + bias[N] + residual[M,N] (+ out when accumulating)
//
// Barrier-free tile for software drivers: one subgroup computes (GROUPS * SG) x (COLS * SG) outputs. A lane owns columns of the tile; it loads four numbers
// of one row of `a` for each group of rows, which all lanes then take over one by one by broadcast. Loads are what costs there: 4 GROUPS + 4 COLS of them feed
// 4 SG GROUPS COLS multiply-adds. K and K2 must be multiples of 4.
//@include matmul/_nt_subgroup.wgsl
//@include weight/_f32.wgsl
