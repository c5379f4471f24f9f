// half.wgsl with b held as kernels/weight/_int4.wgsl says.
enable f16;
//@include matmul/_register.wgsl
//@include matmul/_register_half.wgsl
//@include weight/_int4_octet.wgsl
