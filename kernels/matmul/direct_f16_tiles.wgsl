// matrix_f16_tiles.wgsl whose units load b's tiles from where they are stored (kernels/weight/_f16_tiles_at.wgsl): NT column by column, NN row by
// row, from the same copy. Panels of b2 go through workgroup memory.
//@include matmul/_matrix_units.wgsl
//@include weight/_f16_tiles_octet.wgsl
const DIRECT = 1u; //@const
