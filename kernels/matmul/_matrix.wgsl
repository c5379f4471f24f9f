// Matrix units with both operands staged in workgroup memory.
//@include matmul/_matrix_units.wgsl
const DIRECT = 0u; //@const
