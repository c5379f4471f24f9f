// matrix.wgsl with b as pack_columns.wgsl leaves it.
//@include matmul/_matrix.wgsl
//@include weight/_packed_octet.wgsl
