// half.wgsl with b held as kernels/weight/_f16_tiles_at.wgsl says.
enable f16;
//@include matmul/_register.wgsl
//@include matmul/_register_half.wgsl
//@include weight/_f16_tiles_octet.wgsl
