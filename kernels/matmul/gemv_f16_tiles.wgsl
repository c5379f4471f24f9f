// gemv.wgsl with b held as kernels/weight/_f16_tiles_at.wgsl says.
//@include matmul/_gemv.wgsl
//@include weight/_f16_tiles_chunk.wgsl
const NORM = 0u; //@const
