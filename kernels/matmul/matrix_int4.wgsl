// matrix.wgsl with b held as kernels/weight/_int4.wgsl says.
//@include matmul/_matrix.wgsl
//@include weight/_int4_octet.wgsl
