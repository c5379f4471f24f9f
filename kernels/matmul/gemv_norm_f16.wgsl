// gemv_norm.wgsl with b held as kernels/weight/_f16.wgsl says.
//@include matmul/_gemv.wgsl
//@include weight/_f16_chunk.wgsl
const NORM = 1u; //@const
