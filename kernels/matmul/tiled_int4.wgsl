// tiled.wgsl with b held as kernels/weight/_int4.wgsl says.
//@include matmul/_tiled.wgsl
//@include weight/_int4_scalar.wgsl
