// tiled.wgsl with b held as kernels/weight/_int8.wgsl says.
//@include matmul/_tiled.wgsl
//@include weight/_int8_scalar.wgsl
