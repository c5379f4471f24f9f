// nn_subgroup.wgsl with b held as kernels/weight/_int8.wgsl says.
//@include matmul/_nn_subgroup.wgsl
//@include weight/_int8.wgsl
