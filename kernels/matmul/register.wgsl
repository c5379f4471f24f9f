// out[M,N] = alpha * A B + A2 B2 + bias + residual (+ out): NT, NN and TN by MODE, operands in f32.
//
// Shared-memory tile of BM x BN with RM x RN quads of outputs a thread; the next panel is fetched into registers while this one is used.
// K, K2 and N must be multiples of 4 (TN: M too). Workgroup z takes a range of panels.
//@include matmul/_register.wgsl
//@include matmul/_register_f32.wgsl
//@include weight/_f32.wgsl
