// tiled.wgsl with b held as kernels/weight/_f16.wgsl says.
//@include matmul/_tiled.wgsl
//@include weight/_f16_scalar.wgsl
