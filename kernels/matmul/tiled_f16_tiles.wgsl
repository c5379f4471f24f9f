// tiled.wgsl with b held as kernels/weight/_f16_tiles_at.wgsl says.
//@include matmul/_tiled.wgsl
//@include weight/_f16_tiles_scalar.wgsl
