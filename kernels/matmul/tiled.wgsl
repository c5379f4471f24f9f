// out[M,N] = alpha * A B + A2 B2 + bias + residual (+ out when accumulating), any shape, any of the three layouts:
//   mode 0 (NT) a[M,K] b[N,K]   mode 1 (NN) a[M,K] b[K,N]   mode 2 (TN) a[K,M] b[K,N]; a2, b2 alike with K2.
//
// Shared-memory tile 64 x 64 by 16, 4 x 4 outputs a thread: the general variant, and the one for hardware devices.
//@include matmul/_tiled.wgsl
//@include weight/_f32_scalar.wgsl
