// nt_subgroup_few.wgsl with b held as kernels/weight/_int4.wgsl says.
//@include matmul/_nt_subgroup_few.wgsl
//@include weight/_int4.wgsl
