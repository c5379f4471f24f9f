// gemv.wgsl with b held as kernels/weight/_int8.wgsl says.
//@include matmul/_gemv.wgsl
//@include weight/_int8_chunk.wgsl
const NORM = 0u; //@const
