// out[M,N] = A B + A2 B2 + bias + residual (+ out) on matrix units of 16 x 16 x 16, 16-bit floats in and f32 sums: NT and NN by MODE.
//
// a comes from pack.wgsl. Panels are staged in workgroup memory, the next one waits in registers; TM x TN tiles a subgroup stay in the
// units to the end. K, K2 and N must be multiples of 4. Workgroup z takes a range of panels.
//@include matmul/_matrix.wgsl
//@include weight/_f32_octet.wgsl
