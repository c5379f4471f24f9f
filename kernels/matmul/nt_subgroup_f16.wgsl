// nt_subgroup.wgsl with b held as kernels/weight/_f16.wgsl says.
//@include matmul/_nt_subgroup.wgsl
//@include weight/_f16.wgsl
