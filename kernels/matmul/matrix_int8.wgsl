// matrix.wgsl with b held as kernels/weight/_int8.wgsl says.
//@include matmul/_matrix.wgsl
//@include weight/_int8_octet.wgsl
