// matrix.wgsl with b held as kernels/weight/_f16.wgsl says.
//@include matmul/_matrix.wgsl
//@include weight/_f16_octet.wgsl
