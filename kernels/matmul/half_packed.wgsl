// half.wgsl with b as pack_columns.wgsl leaves it.
enable f16;
//@include matmul/_register.wgsl
//@include matmul/_register_half.wgsl
//@include weight/_packed_octet.wgsl
