// nt_subgroup_few.wgsl with b held as kernels/weight/_f16.wgsl says.
//@include matmul/_nt_subgroup_few.wgsl
//@include weight/_f16.wgsl
