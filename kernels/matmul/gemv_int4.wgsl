// gemv.wgsl with b held as kernels/weight/_int4.wgsl says.
//@include matmul/_gemv.wgsl
//@include weight/_int4_chunk.wgsl
const NORM = 0u; //@const
